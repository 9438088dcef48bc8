{{- /* Generated from operator/slmpack/permissions.py by `make chart`. Do not edit. */ -}}
{{- define "slmpack.rules.cluster" -}}
# what GPUs there are
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
# what uses them
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# who goes first
- apiGroups: ["scheduling.k8s.io"]
  resources: [priorityclasses]
  verbs: [get, list, watch]
# what devices there are
- apiGroups: ["resource.k8s.io"]
  resources: [resourceslices]
  verbs: [get, list, watch]
# whether they can be claimed
- apiGroups: ["resource.k8s.io"]
  resources: [deviceclasses]
  verbs: [get, list, watch]
# who holds them
- apiGroups: ["resource.k8s.io"]
  resources: [resourceclaims]
  verbs: [get, list, watch]
{{- end }}
{{- define "slmpack.rules.managed" -}}
# claiming them for replicas
- apiGroups: ["resource.k8s.io"]
  resources: [resourceclaimtemplates]
  verbs: [get, create]
# what is wanted
- apiGroups: ["slmpack.dev"]
  resources: [slmdeployments]
  verbs: [get, list, watch]
# saying why
- apiGroups: ["slmpack.dev"]
  resources: [slmdeployments/status]
  verbs: [patch]
# replicas
- apiGroups: [""]
  resources: [pods]
  verbs: [create, delete, patch]
# where they answer
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
# profiles that specs refer to
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
# what has happened
- apiGroups: ["events.k8s.io"]
  resources: [events]
  verbs: [create]
{{- if include "slmpack.packs" . }}
# who a pack's supervisor is
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create]
# what a pack's supervisor may do: write its own endpoints
- apiGroups: ["rbac.authorization.k8s.io"]
  resources: [roles]
  verbs: [get, create]
# that a pack's supervisor may do it
- apiGroups: ["rbac.authorization.k8s.io"]
  resources: [rolebindings]
  verbs: [get, create]
# where a pack's engines answer; who grants get and patch to a supervisor must hold them
- apiGroups: ["discovery.k8s.io"]
  resources: [endpointslices]
  verbs: [get, list, watch, create, patch]
{{- end }}
{{- end }}
{{- define "slmpack.rules.lease" -}}
# one planner a cluster
- apiGroups: ["coordination.k8s.io"]
  resources: [leases]
  verbs: [get, create, update]
{{- if include "slmpack.packs" . }}
# the key to the supervisors of packs
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# the key to the supervisors of packs
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [slmpack-pack-key]
  verbs: [get]
{{- end }}
{{- end }}
