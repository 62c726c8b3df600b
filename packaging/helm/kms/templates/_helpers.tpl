{{- define "kms.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kms.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kms.labels" -}}
{{ include "kms.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{- define "kms.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kms.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "kms.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "kms.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}{{ include "kms.fullname" . }}-tls{{- else -}}{{ .Values.tls.existingSecret }}{{- end -}}
{{- end -}}

{{/* "true" if the store is the embedded one. */}}
{{- define "kms.isEmbedded" -}}
{{- if hasKey .Values.config.keystore "fs" }}true{{ end -}}
{{- end -}}

{{- define "kms.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}
{{- if or (include "kms.isEmbedded" .) (hasKey .Values.config.keystore "memory") }}1{{ else }}2{{ end -}}
{{- else -}}
{{- int .Values.replicas -}}
{{- end -}}
{{- end -}}

{{/* Refuses values that contradict each other. What each value alone may be is in values.schema.json. */}}
{{- define "kms.validate" -}}
{{- $stores := keys .Values.config.keystore -}}
{{- if ne (len $stores) 1 -}}
{{- fail (printf "config.keystore: exactly one key store is needed (fs, postgres, vault, aws or memory), found %d" (len $stores)) -}}
{{- end -}}
{{- $store := first $stores -}}
{{- $replicas := int (include "kms.replicas" .) -}}
{{- if and (has $store (list "fs" "memory")) (gt $replicas 1) -}}
{{- fail (printf "replicas: the key store config.keystore.%s is for one server, not %d; several servers need a shared one: vault, postgres or aws" $store $replicas) -}}
{{- end -}}
{{- $hasRoots := hasKey .Values.config "kms" -}}
{{- if and (has $store (list "fs" "postgres")) (not $hasRoots) (not .Values.rootKey.existingSecret) -}}
{{- fail (printf "rootKey.existingSecret: config.keystore.%s needs a root key: a secret that holds it, or a root elsewhere in config.kms" $store) -}}
{{- end -}}
{{- if and .Values.rootKey.existingSecret (or $hasRoots (not (has $store (list "fs" "postgres")))) -}}
{{- fail "rootKey.existingSecret: only config.keystore.fs and config.keystore.postgres take it, and not beside config.kms" -}}
{{- end -}}
{{- if eq $store "fs" -}}
{{- range $key := list "path" "root_key_file" "root_key_env" "create" -}}
{{- if hasKey (default dict $.Values.config.keystore.fs) $key -}}
{{- fail (printf "config.keystore.fs.%s: the chart sets it; see persistence and rootKey" $key) -}}
{{- end -}}
{{- end -}}
{{- else if .Values.persistence.createStore -}}
{{- fail "persistence.createStore: only the embedded store (config.keystore.fs) has a volume" -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- fail "tls: either existingSecret or certManager, not both" -}}
{{- end -}}
{{- if not (or .Values.tls.existingSecret .Values.tls.certManager.enabled) -}}
{{- fail "tls: a certificate is needed: tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: cert-manager needs an issuer" -}}
{{- end -}}
{{- range $key := list "address" "probes" -}}
{{- if hasKey $.Values.config $key -}}
{{- fail (printf "config.%s: the chart sets it; see service and probes" $key) -}}
{{- end -}}
{{- end -}}
{{- range $key := list "cert" "key" -}}
{{- if hasKey (default dict $.Values.config.tls) $key -}}
{{- fail (printf "config.tls.%s: the chart sets it; see tls" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The config as data: that of the values, with what the chart sets. */}}
{{- define "kms.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $_ := set $config "address" "0.0.0.0:7373" -}}
{{- $tls := default dict $config.tls -}}
{{- $_ := set $tls "cert" "/etc/kms/tls/tls.crt" -}}
{{- $_ := set $tls "key" "/etc/kms/tls/tls.key" -}}
{{- $_ := set $config "tls" $tls -}}
{{- $_ := set $config "probes" (dict "address" (printf "0.0.0.0:%d" (int .Values.probes.port))) -}}
{{- if include "kms.isEmbedded" . -}}
{{- $fs := dict "path" "/var/lib/kms/store" -}}
{{- if .Values.rootKey.existingSecret -}}
{{- $_ := set $fs "root_key_file" "/etc/kms/root-key/root.key" -}}
{{- end -}}
{{- if .Values.persistence.createStore -}}
{{- $_ := set $fs "create" true -}}
{{- end -}}
{{- $_ := set $config.keystore "fs" $fs -}}
{{- else if .Values.rootKey.existingSecret -}}
{{- $_ := set $config "kms" (list (dict "local" (dict "root_key_file" "/etc/kms/root-key/root.key"))) -}}
{{- end -}}
{{- include "kms.toml" (dict "path" (list) "table" $config) -}}
{{- end -}}

{{- define "kms.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . -}}{{ . }}{{- else -}}{{ . | toJson }}{{- end -}}
{{- end -}}

{{- define "kms.tomlPath" -}}
{{- $keys := list -}}
{{- range . -}}{{- $keys = append $keys (include "kms.tomlKey" .) -}}{{- end -}}
{{- join "." $keys -}}
{{- end -}}

{{/* A text, number, switch or list of them in TOML. A text of JSON is one of TOML. */}}
{{- define "kms.tomlValue" -}}
{{- if kindIs "slice" . -}}
[{{- range $index, $item := . -}}{{- if $index }}, {{ end -}}{{- include "kms.tomlValue" $item -}}{{- end -}}]
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{/* A table in TOML: first its own values, then the tables in it. */}}
{{- define "kms.toml" -}}
{{- $path := .path -}}
{{- $table := default dict .table -}}
{{- $isTable := dict -}}
{{- range $key, $value := $table -}}
{{- if or (kindIs "map" $value) (and (kindIs "slice" $value) $value (kindIs "map" (first (default (list "") $value)))) -}}
{{- $_ := set $isTable $key true -}}
{{- else if not (kindIs "invalid" $value) }}
{{ include "kms.tomlKey" $key }} = {{ include "kms.tomlValue" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := $table -}}
{{- if hasKey $isTable $key -}}
{{- $inner := append $path $key -}}
{{- if kindIs "map" $value }}
[{{ include "kms.tomlPath" $inner }}]
{{- include "kms.toml" (dict "path" $inner "table" $value) -}}
{{- else -}}
{{- range $item := $value }}
[[{{ include "kms.tomlPath" $inner }}]]
{{- include "kms.toml" (dict "path" $inner "table" $item) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
