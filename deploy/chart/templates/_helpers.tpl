{{- /* A release's name may be longer than what the server takes. */ -}}
{{- define "prewarmer.instance" -}}
{{- if .Values.instance }}{{ .Values.instance }}{{ else if ne .Release.Name "prewarmer" }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "prewarmer.name" -}}
{{- with include "prewarmer.instance" . }}prewarmer-{{ . }}{{ else }}prewarmer{{ end }}
{{- end }}

{{- /* Without split, one Deployment does everything: its name, account and labels are those of the front. */ -}}
{{- define "prewarmer.controllerName" -}}
{{ include "prewarmer.name" . }}{{ if .Values.split }}-controller{{ end }}
{{- end }}

{{- /* The account that makes and deletes workers. */ -}}
{{- define "prewarmer.controllerAccount" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "prewarmer.controllerName" . }}
{{- end }}

{{- /* Selects the pods that answer the webhook and REST. */ -}}
{{- define "prewarmer.selector" -}}
app.kubernetes.io/name: prewarmer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Selects the pods of the controller: with split, a Deployment of their own. */ -}}
{{- define "prewarmer.controllerSelector" -}}
app.kubernetes.io/name: prewarmer{{ if .Values.split }}-controller{{ end }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Selects the pods of both. */ -}}
{{- define "prewarmer.serversSelector" -}}
app.kubernetes.io/part-of: prewarmer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "prewarmer.labels" -}}
{{ include "prewarmer.selector" . }}
{{ include "prewarmer.commonLabels" . }}
{{- end }}

{{- define "prewarmer.controllerLabels" -}}
{{ include "prewarmer.controllerSelector" . }}
{{ include "prewarmer.commonLabels" . }}
{{- end }}

{{- define "prewarmer.commonLabels" -}}
app.kubernetes.io/part-of: prewarmer
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "prewarmer.imageOf" -}}
{{- $part := .part -}}
{{- $name := $part.repository -}}
{{- with .root.Values.image.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if $part.digest }}{{ $name }}@{{ $part.digest }}{{ else }}{{ $name }}:{{ $part.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "prewarmer.image" -}}{{ include "prewarmer.imageOf" (dict "root" . "part" .Values.image) }}{{- end }}
{{- define "prewarmer.workerImage" -}}{{ include "prewarmer.imageOf" (dict "root" . "part" .Values.workerImage) }}{{- end }}

{{- /* The server itself speaks TLS to callers of REST, unless its settings say otherwise. */ -}}
{{- define "prewarmer.apiScheme" -}}
{{- if eq (.Values.settings.apiTls | default "true" | toString) "false" }}http{{ else }}https{{ end }}
{{- end }}

{{- define "prewarmer.certificateSecret" -}}
{{- if eq .Values.certificates.mode "secret" }}{{ required "certificates.secretName: name the Secret with tls.crt, tls.key and ca.crt" .Values.certificates.secretName }}{{ else }}{{ include "prewarmer.name" . }}-tls{{ end }}
{{- end }}

{{- /* What a Kubernetes token for REST is made for; nothing where that is the API server's own audience. */ -}}
{{- define "prewarmer.audience" -}}
{{- if hasKey .Values.settings "tokenAudience" }}{{ .Values.settings.tokenAudience | toString | splitList "," | first | trim }}{{ else }}prewarmer{{ end }}
{{- end }}
