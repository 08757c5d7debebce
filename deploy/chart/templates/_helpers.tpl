{{- /* A release's name may be longer than what the server takes. */ -}}
{{- define "prewarmer.instance" -}}
{{- if .Values.instance }}{{ .Values.instance }}{{ else if ne .Release.Name "prewarmer" }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "prewarmer.name" -}}
{{- with include "prewarmer.instance" . }}prewarmer-{{ . }}{{ else }}prewarmer{{ end }}
{{- end }}

{{- define "prewarmer.selector" -}}
app.kubernetes.io/name: prewarmer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "prewarmer.labels" -}}
{{ include "prewarmer.selector" . }}
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
