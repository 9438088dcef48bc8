"""The demo's embedded cluster, and the strict stand-in kubelet that plays GPU nodes there and on a real control plane.

Start reading at `cluster.EmbeddedCluster` (store + scheduler + HTTP) and `kubelet.Kubelets` (nodes and their pods):

* `store`, `watches`, `strategy`, `patches`, `selectors`, `scale`, `events`, `errors`, `resources`: the objects;
* `server`, `openapi`, `tables`: what kubectl and Kopf see of them; `client`: the same without HTTP; `scheduler` binds;
* `nodes`: GPU nodes as labelled by the device plugin; `devices`: their GPUs;
* `worker`, `podspec`, `podstatus`: one pod's life; `engine`, `flags`: vLLM's verdict on it.

Nothing here shares a formula with the planner: a wrong plan must be able to fail.
"""
