{{/* What a schema cannot say: values that contradict each other are refused with what to do. */}}
{{- define "joulebook.check" -}}
{{- $tls := .Values.tls -}}
{{- if and (eq $tls.source "certManager") (not $tls.certManager.issuer.name) -}}
{{- fail "tls.source is certManager: name the issuer in tls.certManager.issuer.name" -}}
{{- end -}}
{{- if eq $tls.source "bootstrap" -}}
{{- if not $tls.bootstrap.kubectlImage -}}
{{- fail "tls.source is bootstrap: name an image with kubectl in tls.bootstrap.kubectlImage" -}}
{{- end -}}
{{- if or .Values.agent.namespace .Values.poller.namespace -}}
{{- fail "tls.source is bootstrap: its job stores secrets in the release's namespace only; leave agent.namespace and poller.namespace empty, or use another source" -}}
{{- end -}}
{{- end -}}
{{- if and (ne $tls.source "secrets") (not $tls.nodes) (not $tls.agentHostPath) (or .Values.agent.cpu.enabled .Values.agent.gpu.enabled) -}}
{{- fail (printf "tls.source is %s: list the nodes that get certificates in tls.nodes, or say in tls.agentHostPath where nodes have their own" $tls.source) -}}
{{- end -}}
{{- if and .Values.aggregator.pods.enabled .Values.aggregator.nodeDirectory -}}
{{- fail "aggregator.pods.enabled and aggregator.nodeDirectory both say what runs on nodes: leave one of them out" -}}
{{- end -}}
{{- if .Values.poller.enabled -}}
{{- if not .Values.poller.subjects -}}
{{- fail "poller.enabled: list the nodes that it speaks for in poller.subjects" -}}
{{- end -}}
{{- if not .Values.poller.credentialsSecret -}}
{{- fail "poller.enabled: name the secret with the BMCs' accounts in poller.credentialsSecret" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.poller.cidrs) -}}
{{- fail "poller.enabled: list the networks of the BMCs in poller.cidrs; the network policy lets it reach nothing else" -}}
{{- end -}}
{{- end -}}
{{- end -}}
