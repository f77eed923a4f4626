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

{{- /* etcd's members and the cluster's name there, and all that a cluster needs. */ -}}
{{- define "penstock.cluster" -}}
{{- if not .Values.cluster.etcd }}{{ fail "cluster.etcd: HOST:PORT of each member of etcd" }}{{ end }}
{{- if not (hasPrefix "s3://" (get .Values.config "tier2" | default "" | toString)) }}
{{- fail "cluster.enabled: set config.tier2 to the s3://BUCKET/PREFIX that all nodes share" }}
{{- end }}
{{- if lt (int .Values.terminationGracePeriodSeconds) 45 }}
{{- fail "terminationGracePeriodSeconds: at least 45 in a cluster, whose nodes hand over before they stop" }}
{{- end }}
{{- $name := .Values.cluster.name | default (printf "%s-%s" .Release.Namespace (include "penstock.name" .)) -}}
{{ ternary "etcds" "etcd" .Values.cluster.etcdTls }}://{{ join "," .Values.cluster.etcd }}/{{ $name }}
{{- end }}

{{- /* Where a cluster's clients find the node whose number is $node, a variable of the shell: by each of its listeners. */ -}}
{{- define "penstock.told" -}}
{{- $pod := printf "$POD_NAME.%s-pods.%s.svc.%s" (include "penstock.name" .) .Release.Namespace .Values.clusterDomain }}
{{- $told := list }}
{{- if hasKey .Values.config "listeners" }}
{{- range splitList "," (get .Values.config "listeners") }}
{{- $parts := splitList "://" (trim .) }}
{{- $name := ternary (first $parts) "PLAINTEXT" (eq (len $parts) 2) }}
{{- $told = append $told (printf "%s://%s:%s" $name $pod (regexFind "[0-9]+$" (last $parts))) }}
{{- end }}
{{- else }}
{{- $told = append $told (printf "INSIDE://%s:9092" $pod) }}
{{- if .Values.external.enabled }}
{{- $host := required "external.host: the name that clients outside of the cluster reach" .Values.external.host }}
{{- if eq .Values.external.type "NodePort" }}
{{- $told = append $told (printf "OUTSIDE://%s:$((%d + node))" (replace "{node}" "$node" $host) (int .Values.external.port)) }}
{{- else if contains "{node}" $host }}
{{- $told = append $told (printf "OUTSIDE://%s:%d" (replace "{node}" "$node" $host) (int .Values.external.port)) }}
{{- else }}
{{- fail "external.host: each node of a cluster has a load balancer of its own: write {node} where its number stands" }}
{{- end }}
{{- end }}
{{- end }}
{{- join "," $told }}
{{- end }}
