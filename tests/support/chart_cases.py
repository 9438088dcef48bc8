"""Values that people install with; each test of the templates holds for all of them."""

from __future__ import annotations

from typing import Any

__all__ = ["CASES"]

MONITORS = {
    "podMonitor": {"enabled": True, "labels": {"release": "kps"}},
    "engines": {"enabled": True, "labels": {"release": "kps"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "kps"}},
    "dashboards": {"enabled": True},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "one-namespace": {"watch": {"namespace": "team"}},
    "its-own-namespace": {"watch": {"namespace": "slmpack-system"}},
    "packs": {"supervisor": {"image": "registry.example.com/vllm-slmpack:v0.33.0"}},
    "packs-in-one-namespace": {"watch": {"namespace": "team"}, "supervisor": {"image": "registry.example.com/sup:1"}},
    "packs-by-the-operators-image": {"supervisor": {"image": '{{ include "slmpack.image" . }}'}},
    "standby": {
        "lease": {"namespace": "elsewhere"},
        "crds": {"install": False},
        "supervisor": {"image": "registry.example.com/sup:1"},
    },
    "no-rbac": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "given"}},
    "monitored": {"prometheus": {"url": "http://prometheus.monitoring:9090"}, "metrics": MONITORS},
    "service-monitor": {"metrics": {"serviceMonitor": {"enabled": True, "interval": "30s", "scrapeTimeout": "10s"}}},
    "everything": {
        "fullnameOverride": "packer",
        "commonLabels": {"team": "ml", "app.kubernetes.io/name": "not-this"},
        "image": {
            "repository": "registry.example.com:5000/mirror/slmpack",
            "tag": "ignored",
            "digest": f"sha256:{'a' * 64}",
            "pullSecrets": [{"name": "registry"}],
        },
        "operator": {"nodeSelector": "pool in (a,b),!spot"},
        "watch": {"namespace": "team"},
        "lease": {"namespace": "leases"},
        "supervisor": {"image": "registry.example.com/sup:1"},
        "podProxy": "http://proxy.example.com:3128",
        "hub": {
            "endpoint": "https://hub.example.com:8443",
            "tokenSecret": {"name": "hub-token"},
            "bundledModels": True,
        },
        "prometheus": {
            "url": "https://prometheus.monitoring/tenant",
            "basicAuthSecret": {"name": "prometheus-auth"},
            "caConfigMap": {"name": "ca"},
            "headers": ["X-Scope-OrgID: team"],
            "metricNames": {"labels": {"deployment": "slmdeployment"}},
            "gatewayWaitingQuery": 'sum(waiting{ns="$namespace",name="$name"})',
            "period": 5,
            "timeout": 0.5,
            "maxAge": 30,
        },
        "page": {"enabled": True},
        "http": {"host": "[::]", "port": 9000},
        "extraArgs": ["--kubeconfig=/etc/elsewhere/config"],
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/ssl/own.pem"}],
        "extraVolumes": [{"name": "own", "configMap": {"name": "own"}}],
        "extraVolumeMounts": [{"name": "own", "mountPath": "/etc/ssl/own.pem", "subPath": "own.pem"}],
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/slmpack"}},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "deploymentAnnotations": {"owner": "ml"},
        "podAnnotations": {"owner": "ml"},
        "podLabels": {"sidecar.istio.io/inject": "false"},
        "service": {"port": 80, "annotations": {"owner": "ml"}},
        "metrics": MONITORS,
        "networkPolicy": {
            "enabled": True,
            "ingress": {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
            },
            "egress": {"apiServerCIDRs": ["10.0.0.1/32"], "prometheusPorts": [9091], "extra": [{"to": []}]},
        },
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": '{{ include "slmpack.fullname" . }}-own'}},
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}-own\n",
        ],
    },
}
