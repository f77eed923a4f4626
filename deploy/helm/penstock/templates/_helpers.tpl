{{- define "penstock.name" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "penstock.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "penstock.labels" -}}
{{ include "penstock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- /* The address that clients inside of the cluster are told. */ -}}
{{- define "penstock.host" -}}
{{ include "penstock.name" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- /* penstock.toml: numbers, texts and truth values are written alike in JSON and TOML. */ -}}
{{- define "penstock.config" -}}
{{- range $key, $value := .Values.config }}
{{ $key | quote }} = {{ $value | toJson }}
{{- end }}
{{- end }}
