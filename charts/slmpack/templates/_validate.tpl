{{- /* What no schema can say: values that contradict one another, all in one message. */ -}}
{{- define "slmpack.validate" -}}
{{- $wrong := list -}}
{{- $from := .Values.prometheus -}}
{{- if not .Values.image.repository -}}
{{- $wrong = append $wrong "image.repository is empty, and no image of slmpack is published: build one (`make image`), push it to a registry that your nodes reach, and set image.repository to its name without the tag" -}}
{{- end -}}
{{- range include "slmpack.badForms" . | fromJsonArray }}{{- $wrong = append $wrong . -}}{{- end -}}
{{- $ways := list -}}
{{- if $from.tokenSecret.name }}{{- $ways = append $ways "prometheus.tokenSecret.name" -}}{{- end -}}
{{- if $from.basicAuthSecret.name }}{{- $ways = append $ways "prometheus.basicAuthSecret.name" -}}{{- end -}}
{{- if $from.serviceAccountToken }}{{- $ways = append $ways "prometheus.serviceAccountToken" -}}{{- end -}}
{{- if gt (len $ways) 1 -}}
{{- $wrong = append $wrong (printf "%s are set: a Prometheus is told one of them; keep one" (join " and " $ways)) -}}
{{- end -}}
{{- if not $from.url -}}
{{- if $from.caConfigMap.name }}{{- $ways = append $ways "prometheus.caConfigMap.name" -}}{{- end -}}
{{- if $from.headers }}{{- $ways = append $ways "prometheus.headers" -}}{{- end -}}
{{- if $from.gatewayWaitingQuery }}{{- $ways = append $ways "prometheus.gatewayWaitingQuery" -}}{{- end -}}
{{- range $ways -}}
{{- $wrong = append $wrong (printf "%s is set and prometheus.url is empty: set prometheus.url, for instance to http://prometheus.monitoring:9090" .) -}}
{{- end -}}
{{- end -}}
{{- if and $from.gatewayWaitingQuery (not (contains "$name" (replace "$namespace" "" $from.gatewayWaitingQuery))) -}}
{{- $wrong = append $wrong "prometheus.gatewayWaitingQuery has no $name: it would say the same of every SLMDeployment" -}}
{{- end -}}
{{- if and .Values.metrics.podMonitor.enabled .Values.metrics.serviceMonitor.enabled -}}
{{- $wrong = append $wrong "metrics.podMonitor.enabled and metrics.serviceMonitor.enabled are both true: the operator would be scraped twice and its counts doubled; keep one" -}}
{{- end -}}
{{- with include "slmpack.unknownAlerts" . -}}
{{- $wrong = append $wrong (printf "metrics.prometheusRule.disabledAlerts names %s, which no rule of files/rules defines" .) -}}
{{- end -}}
{{- with include "slmpack.otherOperator" . -}}
{{- $wrong = append $wrong . -}}
{{- end -}}
{{- if $wrong -}}
{{- fail (printf "\n\nThese values do not fit:\n  - %s\n" (join "\n  - " $wrong)) -}}
{{- end -}}
{{- end -}}

{{- /* Values of a wrong form, as a JSON list of messages: a pattern of the schema would only show itself. */ -}}
{{- define "slmpack.badForms" -}}
{{- $wrong := list -}}
{{- with .Values.image.repository -}}
{{- if or (contains "@" .) (regexMatch ":[^/]*$" .) (regexMatch "\\s|^/|/$|://" .) -}}
{{- $wrong = append $wrong (printf "image.repository is %q: write the name alone, such as registry.example.com/slmpack; a tag belongs in image.tag, a digest in image.digest" .) -}}
{{- end -}}
{{- end -}}
{{- with .Values.prometheus.url -}}
{{- if not (regexMatch "^https?://([^/:@?#\\[\\]\\s]+|\\[[0-9a-fA-F:.]+\\])(:[0-9]+)?(/[^@?#\\s]*)?$" .) -}}
{{- $wrong = append $wrong (printf "prometheus.url is %q, which is not the URL of a Prometheus: write for instance http://prometheus.monitoring:9090; passwords belong in prometheus.basicAuthSecret" .) -}}
{{- end -}}
{{- end -}}
{{- range .Values.prometheus.headers -}}
{{- if not (regexMatch "^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^[:cntrl:]]*[^[:cntrl:]\\s][^[:cntrl:]]*$" .) -}}
{{- $wrong = append $wrong (printf "prometheus.headers holds %q, which is no header: write for instance 'X-Scope-OrgID: team'" .) -}}
{{- end -}}
{{- end -}}
{{- with .Values.podProxy -}}
{{- if not (regexMatch "^http://[^/\\s]+/?$" .) -}}
{{- $wrong = append $wrong (printf "podProxy is %q, which is not an HTTP proxy's URL: write for instance http://proxy.example.com:3128" .) -}}
{{- end -}}
{{- end -}}
{{- with .Values.hub.endpoint -}}
{{- if not (regexMatch "^https?://\\S+$" .) -}}
{{- $wrong = append $wrong (printf "hub.endpoint is %q, which is no URL: write for instance https://hub.example.com" .) -}}
{{- end -}}
{{- end -}}
{{- if not (has .Values.http.host (list "0.0.0.0" "[::]")) -}}
{{- $wrong = append $wrong (printf "http.host is %q, where the kubelet's probes may not reach the operator: write 0.0.0.0, or [::]" .Values.http.host) -}}
{{- end -}}
{{- range $key := list "nameOverride" "fullnameOverride" -}}
{{- with index $.Values $key -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$" .) -}}
{{- $wrong = append $wrong (printf "%s is %q, which no object may be called: write at most 63 of a-z, 0-9 and -, and no - first or last" $key .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with .Values.priorityClassName -}}
{{- if not (regexMatch "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$" .) -}}
{{- $wrong = append $wrong (printf "priorityClassName is %q, which no PriorityClass may be called: write a-z, 0-9, - and ., such as system-cluster-critical" .) -}}
{{- end -}}
{{- end -}}
{{- range .Values.networkPolicy.egress.apiServerCIDRs -}}
{{- if not (regexMatch "^((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])/([0-9]|[12][0-9]|3[0-2])$|^[0-9a-fA-F]*:[0-9a-fA-F:.]*/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8])$" .) -}}
{{- $wrong = append $wrong (printf "networkPolicy.egress.apiServerCIDRs holds %q, which is no CIDR: write an address and the length of its prefix, such as 10.0.0.1/32 or fd00::1/128" .) -}}
{{- end -}}
{{- end -}}
{{- $names := include "slmpack.ownEnv" . | fromJsonArray -}}
{{- range .Values.extraEnv -}}
{{- if has .name $names -}}
{{- $wrong = append $wrong (printf "extraEnv holds %q, which is set already, by the chart's own values or by an item before: leave it out" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- range include "slmpack.badFlags" . | fromJsonArray }}{{- $wrong = append $wrong . -}}{{- end -}}
{{- with include "slmpack.badSupervisorImage" . }}{{- $wrong = append $wrong . -}}{{- end -}}
{{- with .Values.operator.nodeSelector -}}
{{- $key := "[A-Za-z0-9][-A-Za-z0-9_./]*" -}}
{{- $term := printf "(!?%s|%s\\s*(==|=|!=)\\s*[-A-Za-z0-9_.]*|%s\\s+(in|notin)\\s*\\([^()]*\\))?" $key $key $key -}}
{{- if not (regexMatch (printf "^\\s*%s(\\s*,\\s*%s)*\\s*$" $term $term) .) -}}
{{- $wrong = append $wrong (printf "operator.nodeSelector is %q, which is no label selector: write for instance 'pool=gpu', 'pool in (a,b)' or '!spot'" .) -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{- /* What is wrong with extraArgs, as a JSON list of messages. A flag that the program does not know, or that excludes
one of the chart's, would end the operator at its start, again and again. */ -}}
{{- define "slmpack.badFlags" -}}
{{- $values := dict
  "--kubeconfig" ""
  "--namespace" "watch.namespace"
  "--all-namespaces" "watch.namespace"
  "--node-selector" "operator.nodeSelector"
  "--lease-namespace" "lease.namespace"
  "--http" "http.host and http.port"
  "--page" "page.enabled"
  "--supervisor-image" "supervisor.image"
  "--pod-proxy" "podProxy"
  "--bundled-models" "hub.bundledModels"
  "--prometheus-url" "prometheus.url"
  "--prometheus-token-file" "prometheus.tokenSecret"
  "--prometheus-basic-auth-file" "prometheus.basicAuthSecret"
  "--prometheus-ca-file" "prometheus.caConfigMap"
  "--prometheus-header" "prometheus.headers"
  "--metric-names" "prometheus.metricNames"
  "--gateway-waiting-query" "prometheus.gatewayWaitingQuery"
  "--metrics-period" "prometheus.period"
  "--metrics-timeout" "prometheus.timeout"
  "--metrics-max-age" "prometheus.maxAge"
-}}
{{- $free := list -}}
{{- range $flag, $value := $values }}{{- if not $value }}{{- $free = append $free (printf "%s=..." $flag) -}}{{- end -}}{{- end -}}
{{- $wrong := list -}}
{{- range .Values.extraArgs -}}
{{- $flag := first (splitList "=" .) -}}
{{- if not (hasPrefix "--" .) -}}
{{- $wrong = append $wrong (printf "extraArgs holds %q: write each flag as one item, such as --kubeconfig=/etc/elsewhere/config" .) -}}
{{- else if not (hasKey $values $flag) -}}
{{- $wrong = append $wrong (printf "extraArgs holds %q, a flag that `slmpack run` of this chart's version does not know: it takes %s here, and all others by values of their own" . (join ", " $free)) -}}
{{- else if index $values $flag -}}
{{- $wrong = append $wrong (printf "extraArgs holds %q, which a value of the chart sets: set %s instead" . (index $values $flag)) -}}
{{- else if not (regexMatch "=." .) -}}
{{- $wrong = append $wrong (printf "extraArgs holds %q without what it is to be: write %s=..., in one item" . $flag) -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{- /* Whether supervisor.image can be told, before Helm's engine reads it: its own words name no value. */ -}}
{{- define "slmpack.badSupervisorImage" -}}
{{- $image := default "" .Values.supervisor.image -}}
{{- $action := "\\{\\{-?\\s*(include\\s+\"slmpack\\.image\"\\s+\\.|\\.Chart\\.(AppVersion|Version)|\\.Values(\\.[A-Za-z_][A-Za-z0-9_]*)+)\\s*-?\\}\\}" -}}
{{- $help := "write an image, such as registry.example.com/vllm-slmpack:v0.33.0, or {{ include \"slmpack.image\" . }}, which is the operator's own" -}}
{{- if not (regexMatch (printf "^\\s*([^{}\\s]|%s)*\\s*$" $action) $image) -}}
{{- printf "supervisor.image is %q, which is no image's name: %s; of templates only this one, .Chart.AppVersion and .Values.NAME are understood" $image $help -}}
{{- else -}}
{{- range regexFindAll "\\.Values(\\.[A-Za-z_][A-Za-z0-9_]*)+" $image -1 -}}
{{- $at := $.Values -}}
{{- range rest (splitList "." (trimPrefix "." .)) -}}
{{- $at = get (ternary $at dict (kindIs "map" $at)) . -}}
{{- end -}}
{{- if not (and $at (kindIs "string" $at)) -}}
{{- printf "supervisor.image is %q, and %s is not set, or no text: set it, or %s" $image . $help -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The environment variables that the Deployment sets by itself, as a JSON list. */ -}}
{{- define "slmpack.ownEnv" -}}
{{- $names := list "POD_NAME" "SLMPACK_MODEL_CACHE" -}}
{{- if .Values.hub.endpoint }}{{- $names = append $names "HF_ENDPOINT" -}}{{- end -}}
{{- if .Values.hub.offline }}{{- $names = append $names "HF_HUB_OFFLINE" -}}{{- end -}}
{{- if .Values.hub.tokenSecret.name }}{{- $names = append $names "HF_TOKEN" -}}{{- end -}}
{{- toJson $names -}}
{{- end -}}

{{- /* Alerts that are to be left out and do not exist. */ -}}
{{- define "slmpack.unknownAlerts" -}}
{{- $known := list -}}
{{- range $path, $_ := .Files.Glob "files/rules/*.yaml" -}}
{{- range (fromYaml ($.Files.Get $path)).groups }}{{- range .rules }}{{- with .alert }}{{- $known = append $known . -}}{{- end }}{{- end }}{{- end -}}
{{- end -}}
{{- $unknown := list -}}
{{- range .Values.metrics.prometheusRule.disabledAlerts -}}
{{- if not (has . $known) }}{{- $unknown = append $unknown . -}}{{- end -}}
{{- end -}}
{{- join ", " $unknown -}}
{{- end -}}

{{- /* Two operators whose Leases are in different namespaces would both pack the same GPUs. The one that is there
already is found by the CRD that its release owns; `helm template` sees no cluster and finds nothing. */ -}}
{{- define "slmpack.otherOperator" -}}
{{- if and .Values.rbac.create (not .Values.operator.nodeSelector) -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "slmdeployments.slmpack.dev" -}}
{{- $notes := default dict (default dict $crd.metadata).annotations -}}
{{- $namespace := index $notes "meta.helm.sh/release-namespace" | default "" -}}
{{- $release := index $notes "meta.helm.sh/release-name" | default "" -}}
{{- if and $namespace (not (and (eq $namespace .Release.Namespace) (eq $release .Release.Name))) -}}
{{- range (lookup "apps/v1" "Deployment" $namespace "").items -}}
{{- $labels := default dict .metadata.labels -}}
{{- if and (eq (index $labels "app.kubernetes.io/instance" | default "") $release) (eq (index $labels "app.kubernetes.io/part-of" | default "") "slmpack") -}}
{{- $args := default list (first .spec.template.spec.containers).args -}}
{{- $lease := "" -}}
{{- $selects := false -}}
{{- range $args -}}
{{- if hasPrefix "--lease-namespace=" . }}{{- $lease = trimPrefix "--lease-namespace=" . -}}{{- end -}}
{{- if hasPrefix "--node-selector=" . }}{{- $selects = true -}}{{- end -}}
{{- end -}}
{{- if and $lease (not $selects) (ne $lease (include "slmpack.leaseNamespace" $)) -}}
{{- printf "an slmpack operator of release %s runs in namespace %s with its Lease in %s: two operators would plan for the same GPUs. Set lease.namespace=%s, and this one waits as standby; or give each its own nodes by operator.nodeSelector; or uninstall the other" $release $namespace $lease $lease -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
