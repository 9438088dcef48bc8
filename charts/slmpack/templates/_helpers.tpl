{{- define "slmpack.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 50 characters: suffixes still fit into a label. */ -}}
{{- define "slmpack.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "slmpack.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "slmpack.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Of roles and bindings, in the cluster or another namespace: two releases may have one name in two namespaces.
No name holds a colon, so slmpack:x:edit is this release's in x and none of a namespace x-edit. */ -}}
{{- define "slmpack.globalName" -}}
{{- printf "%s:%s" (include "slmpack.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- /* Of other objects outside the release's namespace, whose names allow no colon; no namespace holds a dot. */ -}}
{{- define "slmpack.guestName" -}}
{{- printf "%s.%s" (include "slmpack.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "slmpack.selectorLabels" -}}
app.kubernetes.io/name: {{ include "slmpack.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- /* Labels of an object; (dict "root" . "component" "test" "extra" labels). Ours win, the extra ones next. */ -}}
{{- define "slmpack.labelsOf" -}}
{{- $root := .root -}}
{{- $own := dict
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/name" (include "slmpack.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/component" .component
  "app.kubernetes.io/part-of" "slmpack"
  "app.kubernetes.io/version" ($root.Chart.AppVersion | replace "+" "_")
  "app.kubernetes.io/managed-by" $root.Release.Service
-}}
{{- toYaml (merge $own (default dict .extra) (default dict $root.Values.commonLabels)) -}}
{{- end -}}

{{- define "slmpack.labels" -}}
{{- include "slmpack.labelsOf" (dict "root" . "component" "operator") -}}
{{- end -}}

{{- define "slmpack.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "slmpack.supervisorImage" -}}
{{- if not (include "slmpack.badSupervisorImage" .) -}}
{{- tpl (default "" .Values.supervisor.image) . | trim -}}
{{- end -}}
{{- end -}}

{{- /* "true" where packs are made, else empty: the generated rules ask. */ -}}
{{- define "slmpack.packs" -}}
{{- if include "slmpack.supervisorImage" . -}}true{{- end -}}
{{- end -}}

{{- /* Where a pack's supervisor listens: CONTROL_PORT of operator/slmpack/domain/pack.py. */ -}}
{{- define "slmpack.supervisorPort" -}}8090{{- end -}}

{{- define "slmpack.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "slmpack.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "slmpack.leaseNamespace" -}}
{{- default .Release.Namespace .Values.lease.namespace -}}
{{- end -}}

{{- /* The port of a URL, from (dict "url" URL); what the scheme means where it names none. */ -}}
{{- define "slmpack.portOf" -}}
{{- $parts := urlParse .url -}}
{{- $port := regexFind ":[0-9]+$" $parts.host | trimPrefix ":" -}}
{{- $port | default (ternary "443" "80" (eq $parts.scheme "https")) -}}
{{- end -}}

{{- /* The operator's flags; each is one item. */ -}}
{{- define "slmpack.args" -}}
{{- $from := .Values.prometheus -}}
{{- $args := list "run" (printf "--http=%s:%v" .Values.http.host .Values.http.port) -}}
{{- if .Values.watch.namespace -}}
{{- $args = append $args (printf "--namespace=%s" .Values.watch.namespace) -}}
{{- else -}}
{{- $args = append $args "--all-namespaces" -}}
{{- end -}}
{{- $args = append $args (printf "--lease-namespace=%s" (include "slmpack.leaseNamespace" .)) -}}
{{- with .Values.operator.nodeSelector }}{{- $args = append $args (printf "--node-selector=%s" .) -}}{{- end -}}
{{- with include "slmpack.supervisorImage" . }}{{- $args = append $args (printf "--supervisor-image=%s" .) -}}{{- end -}}
{{- with .Values.podProxy }}{{- $args = append $args (printf "--pod-proxy=%s" .) -}}{{- end -}}
{{- if .Values.hub.bundledModels }}{{- $args = append $args "--bundled-models" -}}{{- end -}}
{{- if .Values.page.enabled }}{{- $args = append $args "--page" -}}{{- end -}}
{{- with $from.url }}{{- $args = append $args (printf "--prometheus-url=%s" .) -}}{{- end -}}
{{- if $from.serviceAccountToken -}}
{{- $args = append $args "--prometheus-token-file=/var/run/secrets/kubernetes.io/serviceaccount/token" -}}
{{- else if $from.tokenSecret.name -}}
{{- $args = append $args (printf "--prometheus-token-file=/etc/slmpack/prometheus-token/%s" $from.tokenSecret.key) -}}
{{- else if $from.basicAuthSecret.name -}}
{{- $args = append $args (printf "--prometheus-basic-auth-file=/etc/slmpack/prometheus-auth/%s" $from.basicAuthSecret.key) -}}
{{- end -}}
{{- if $from.caConfigMap.name -}}
{{- $args = append $args (printf "--prometheus-ca-file=/etc/slmpack/prometheus-ca/%s" $from.caConfigMap.key) -}}
{{- end -}}
{{- range $from.headers }}{{- $args = append $args (printf "--prometheus-header=%s" .) -}}{{- end -}}
{{- if $from.metricNames }}{{- $args = append $args "--metric-names=/etc/slmpack/config/metric-names.yaml" -}}{{- end -}}
{{- if not (kindIs "invalid" $from.gatewayWaitingQuery) -}}
{{- $args = append $args (printf "--gateway-waiting-query=%s" $from.gatewayWaitingQuery) -}}
{{- end -}}
{{- with $from.period }}{{- $args = append $args (printf "--metrics-period=%v" .) -}}{{- end -}}
{{- $args = append $args (printf "--metrics-timeout=%v" $from.timeout) -}}
{{- $args = append $args (printf "--metrics-max-age=%v" $from.maxAge) -}}
{{- toYaml (concat $args (default list .Values.extraArgs)) -}}
{{- end -}}
