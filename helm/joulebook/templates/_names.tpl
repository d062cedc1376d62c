{{/* Names, labels and addresses, said once. All take the root context. */}}

{{- define "joulebook.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of a component: list of root and its name. */}}
{{- define "joulebook.labels" -}}
{{- $root := index . 0 -}}
{{ include "joulebook.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: joulebook
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The part of them that selects, and that never changes. */}}
{{- define "joulebook.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ default $root.Chart.Name $root.Values.nameOverride }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "joulebook.agentNamespace" -}}
{{- default .Release.Namespace .Values.agent.namespace -}}
{{- end -}}

{{- define "joulebook.pollerNamespace" -}}
{{- default .Release.Namespace .Values.poller.namespace -}}
{{- end -}}

{{/* Host of the aggregator, as agents, poller and operators call it. */}}
{{- define "joulebook.aggregatorHost" -}}
{{- printf "%s-aggregator.%s.svc" (include "joulebook.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "joulebook.aggregatorUrl" -}}
{{- printf "https://%s:7443" (include "joulebook.aggregatorHost" .) -}}
{{- end -}}

{{/* An image: list of root and its values. */}}
{{- define "joulebook.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Name of a secret of certificates: list of root and component. */}}
{{- define "joulebook.secret" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- default (printf "%s-%s-tls" (include "joulebook.fullname" $root) $component) (get $root.Values.tls (printf "%sSecret" $component)) -}}
{{- end -}}

{{/* Secret of one node's certificate from cert-manager: list of root and node. */}}
{{- define "joulebook.nodeSecret" -}}
{{- printf "%s-node-%s-tls" (include "joulebook.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* Security of a pod that is nobody special: list of root and the component's values. */}}
{{- define "joulebook.podSecurity" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
runAsNonRoot: true
{{- if not $root.Values.openshift.enabled }}
runAsUser: {{ $values.runAsUser }}
runAsGroup: {{ $values.runAsUser }}
fsGroup: {{ $values.runAsUser }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Security of every container but the agent's. */}}
{{- define "joulebook.containerSecurity" -}}
privileged: false
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A page for Prometheus in a program's configuration: list of root and port. Plain text, because the network policy lets nobody
     else in; nothing in it is finer than 60 s. */}}
{{- define "joulebook.metrics" -}}
{{- $root := index . 0 -}}
{{- if $root.Values.monitoring.metrics.enabled -}}
[metrics]
listen = "{{ $root.Values.listenAddress }}:{{ index . 1 }}"
plaintext = true
{{- end -}}
{{- end -}}

{{/* Port and probes of a program that has nothing else to be asked. */}}
{{- define "joulebook.agentProbes" -}}
{{- if .Values.monitoring.metrics.enabled -}}
ports:
  - {name: metrics, containerPort: 7465, protocol: TCP}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 30
  timeoutSeconds: 5
  failureThreshold: 5
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 10
{{- end -}}
{{- end -}}

{{/* Who may read a page: list of root and port. */}}
{{- define "joulebook.scraped" -}}
{{- $root := index . 0 -}}
{{- if and $root.Values.monitoring.metrics.enabled $root.Values.monitoring.scrapers -}}
- ports:
    - {port: {{ index . 1 }}, protocol: TCP}
  from:
    {{- toYaml $root.Values.monitoring.scrapers | nindent 4 }}
{{- end -}}
{{- end -}}
