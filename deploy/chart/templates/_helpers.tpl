{{- /* Truncates the release name to 40 characters, the limit of the setting instance. */ -}}
{{- define "prewarmer.instance" -}}
{{- if .Values.instance }}{{ .Values.instance }}{{ else if ne .Release.Name "prewarmer" }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "prewarmer.name" -}}
{{- with include "prewarmer.instance" . }}prewarmer-{{ . }}{{ else }}prewarmer{{ end }}
{{- end }}

{{- /* Without split, the only Deployment has the name, account and labels of the front. */ -}}
{{- define "prewarmer.controllerName" -}}
{{ include "prewarmer.name" . }}{{ if .Values.split }}-controller{{ end }}
{{- end }}

{{- /* User name of the service account that creates and deletes workers. */ -}}
{{- define "prewarmer.controllerAccount" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "prewarmer.controllerName" . }}
{{- end }}

{{- /* Selector of the pods that serve the webhook and REST. */ -}}
{{- define "prewarmer.selector" -}}
app.kubernetes.io/name: prewarmer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Selector of the controller pods, which with split belong to a separate Deployment. */ -}}
{{- define "prewarmer.controllerSelector" -}}
app.kubernetes.io/name: prewarmer{{ if .Values.split }}-controller{{ end }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* Selector of the pods of both Deployments. */ -}}
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

{{- /* Scheme of the REST listener: https, or http with the setting apiTls=false. */ -}}
{{- define "prewarmer.apiScheme" -}}
{{- if eq (.Values.settings.apiTls | default "true" | toString) "false" }}http{{ else }}https{{ end }}
{{- end }}

{{- define "prewarmer.certificateSecret" -}}
{{- if eq .Values.certificates.mode "secret" }}{{ required "certificates.secretName: required with certificates.mode=secret; name the Secret with tls.crt, tls.key and ca.crt" .Values.certificates.secretName }}{{ else }}{{ include "prewarmer.name" . }}-tls{{ end }}
{{- end }}

{{- /* Audience of Kubernetes tokens for REST. Empty: the audience of the API server. */ -}}
{{- define "prewarmer.audience" -}}
{{- if hasKey .Values.settings "tokenAudience" }}{{ .Values.settings.tokenAudience | toString | splitList "," | first | trim }}{{ else }}prewarmer{{ end }}
{{- end }}
