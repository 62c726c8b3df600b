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
{{- include "kms.validateNames" . -}}
{{- include "kms.validateStore" . -}}
{{- include "kms.validateRoots" . -}}
{{- include "kms.validateTls" . -}}
{{- include "kms.validatePod" . -}}
{{- range $key := list "address" "probes" -}}
{{- if hasKey $.Values.config $key -}}
{{- fail (printf "config.%s: the chart sets it; see service and probes" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kms.validateNames" -}}
{{- $name := include "kms.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "fullnameOverride: the objects would be called '%s', which no service can be: expected a letter first, then letters, digits and '-'" $name) -}}
{{- end -}}
{{- include "kms.validateLabels" (dict "place" "podLabels" "ours" (include "kms.selectorLabels" .) "theirs" .Values.podLabels) -}}
{{- range $kind := list "serviceMonitor" "prometheusRule" "dashboard" -}}
{{- $place := printf "monitoring.%s.labels" $kind -}}
{{- include "kms.validateLabels" (dict "place" $place "ours" (include "kms.labels" $) "theirs" (get $.Values.monitoring $kind).labels) -}}
{{- end -}}
{{- if hasKey (default dict .Values.podAnnotations) "checksum/config" -}}
{{- fail "podAnnotations: the chart sets the annotation checksum/config" -}}
{{- end -}}
{{- end -}}

{{/* Refuses labels that the chart sets itself: a key that is there twice is no YAML, and selectors need the chart's. */}}
{{- define "kms.validateLabels" -}}
{{- $ours := fromYaml .ours -}}
{{- range $label := keys (default dict .theirs) | sortAlpha -}}
{{- if hasKey $ours $label -}}
{{- fail (printf "%s: the chart sets the label %s" $.place $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kms.validateStore" -}}
{{- $stores := keys .Values.config.keystore -}}
{{- if ne (len $stores) 1 -}}
{{- fail (printf "config.keystore: exactly one key store is needed (fs, postgres, vault, aws or memory), found %d" (len $stores)) -}}
{{- end -}}
{{- $store := first $stores -}}
{{- $replicas := int (include "kms.replicas" .) -}}
{{- if and (has $store (list "fs" "memory")) (gt $replicas 1) -}}
{{- fail (printf "replicas: the key store config.keystore.%s is for one server, not %d; several servers need a shared one: vault, postgres or aws" $store $replicas) -}}
{{- end -}}
{{- if eq $store "aws" -}}
{{- $services := keys (default dict .Values.config.keystore.aws) -}}
{{- if ne (len $services) 1 -}}
{{- fail (printf "config.keystore.aws: exactly one of kms and secretsmanager is needed, found %d" (len $services)) -}}
{{- end -}}
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
{{- end -}}

{{/* config.kms as a list of roots: one alone may be a table. */}}
{{- define "kms.roots" -}}
{{- $kms := .Values.config.kms -}}
{{- if kindIs "map" $kms -}}{{- $kms = list $kms -}}{{- end -}}
{{- toJson (default list $kms) -}}
{{- end -}}

{{- define "kms.validateRoots" -}}
{{- $store := keys .Values.config.keystore | first -}}
{{- $hasRoots := hasKey .Values.config "kms" -}}
{{- if and $hasRoots (not .Values.config.kms) -}}
{{- fail "config.kms: empty, expected a root: aws, vault or local. Without one leave it out" -}}
{{- end -}}
{{- if and (has $store (list "fs" "postgres")) (not $hasRoots) (not .Values.rootKey.existingSecret) -}}
{{- fail (printf "rootKey.existingSecret: config.keystore.%s needs a root key: a secret that holds it, or a root elsewhere in config.kms" $store) -}}
{{- end -}}
{{- if and .Values.rootKey.existingSecret (or $hasRoots (not (has $store (list "fs" "postgres")))) -}}
{{- fail "rootKey.existingSecret: only config.keystore.fs and config.keystore.postgres take it, and not beside config.kms" -}}
{{- end -}}
{{- if and $hasRoots (has $store (list "aws" "memory")) -}}
{{- fail (printf "config.kms: config.keystore.%s takes no root; only fs, postgres and vault do" $store) -}}
{{- end -}}
{{- range $index, $root := include "kms.roots" . | fromJsonArray -}}
{{- $place := printf "config.kms[%d]" $index -}}
{{- if kindIs "map" $.Values.config.kms -}}{{- $place = "config.kms" -}}{{- end -}}
{{- $kinds := keys (omit $root "id") -}}
{{- if ne (len $kinds) 1 -}}
{{- fail (printf "%s: exactly one of aws, vault and local is needed, found %d" $place (len $kinds)) -}}
{{- end -}}
{{- $local := default dict $root.local -}}
{{- if and (hasKey $root "local") (ne (len $local) 1) -}}
{{- fail (printf "%s.local: exactly one of root_key_file and root_key_env is needed, found %d" $place (len $local)) -}}
{{- end -}}
{{- if and (eq $store "fs") $local.root_key_file -}}
{{- include "kms.validateOffVolume" (dict "root" $ "place" (printf "%s.local.root_key_file" $place) "path" $local.root_key_file) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses a root key on the volume of the store: whoever has a copy of the volume would have all keys. */}}
{{- define "kms.validateOffVolume" -}}
{{- $place := .place -}}
{{- $path := .path -}}
{{- if contains "${" $path -}}
{{- fail (printf "%s: it has to name the file without a variable, so that the chart sees that it is not on the volume of the store" $place) -}}
{{- end -}}
{{- $file := clean (printf "/%s" $path) -}}
{{- $mounts := list "/var/lib/kms" -}}
{{- $claim := default (printf "data-%s-0" (include "kms.fullname" .root)) .root.Values.persistence.existingClaim -}}
{{- $volumes := list "data" -}}
{{- range .root.Values.extraVolumes -}}
{{- if eq (toString (default dict .persistentVolumeClaim).claimName) $claim -}}{{- $volumes = append $volumes .name -}}{{- end -}}
{{- end -}}
{{- range .root.Values.extraVolumeMounts -}}
{{- if has .name $volumes -}}{{- $mounts = append $mounts (clean (printf "/%s" .mountPath)) -}}{{- end -}}
{{- end -}}
{{- range $mount := $mounts -}}
{{- if hasPrefix (printf "%s/" (trimSuffix "/" $mount)) (printf "%s/" $file) -}}
{{- fail (printf "%s: %s is on the volume of the store, and whoever has a copy of that volume would have all keys; name a file of a secret, in /etc/kms/credentials" $place $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kms.validateTls" -}}
{{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- fail "tls: either existingSecret or certManager, not both" -}}
{{- end -}}
{{- if not (or .Values.tls.existingSecret .Values.tls.certManager.enabled) -}}
{{- fail "tls: a certificate is needed: tls.existingSecret or tls.certManager.enabled" -}}
{{- end -}}
{{- if and .Values.tls.certManager.enabled (not .Values.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name: cert-manager needs an issuer" -}}
{{- end -}}
{{- range $key := list "cert" "key" -}}
{{- if hasKey (default dict $.Values.config.tls) $key -}}
{{- fail (printf "config.tls.%s: the chart sets it; see tls" $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kms.validatePod" -}}
{{- $preStop := int .Values.preStopSeconds -}}
{{- $grace := int .Values.terminationGracePeriodSeconds -}}
{{- if ge $preStop $grace -}}
{{- fail (printf "preStopSeconds: %d leaves no time to the server to end within terminationGracePeriodSeconds, which is %d" $preStop $grace) -}}
{{- end -}}
{{- if include "kms.isEmbedded" . -}}
{{- range $index, $variable := .Values.extraEnv -}}
{{- $key := upper $variable.name -}}
{{- if regexMatch "^KMS_KEYSTORE__FS(__|$)" $key -}}
{{- fail (printf "extraEnv[%d]: %s overrides config.keystore.fs, which the chart sets; see persistence and rootKey" $index $variable.name) -}}
{{- end -}}
{{- if regexMatch "^KMS_KMS(__.*)?__ROOT_KEY_FILE$" $key -}}
{{- fail (printf "extraEnv[%d]: %s names a root key's file; name it in config.kms, where the chart sees that it is not on the volume of the store" $index $variable.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $own := include "kms.ownVolumes" . | fromYaml -}}
{{- range $volume := .Values.extraVolumes -}}
{{- if hasKey $own $volume.name -}}
{{- fail (printf "extraVolumes: the chart has a volume '%s' already" $volume.name) -}}
{{- end -}}
{{- end -}}
{{- range $mount := .Values.extraVolumeMounts -}}
{{- if has (clean $mount.mountPath) (values $own) -}}
{{- fail (printf "extraVolumeMounts: the chart mounts something at %s already" (clean $mount.mountPath)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The chart's own volumes by their names, and where each is mounted. */}}
{{- define "kms.ownVolumes" -}}
config: /etc/kms/config
tls: /etc/kms/tls
{{- if .Values.rootKey.existingSecret }}
root-key: /etc/kms/root-key
{{- end }}
{{- if .Values.credentials.existingSecret }}
credentials: /etc/kms/credentials
{{- end }}
{{- if .Values.serviceAccount.token.enabled }}
token: /var/run/secrets/kms
{{- end }}
{{- if include "kms.isEmbedded" . }}
data: /var/lib/kms
{{- end }}
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
{{- else -}}
{{- range $store, $settings := $config.keystore -}}
{{- if kindIs "invalid" $settings -}}
{{- $_ := set $config.keystore $store dict -}}
{{- end -}}
{{- end -}}
{{- range $service, $settings := $config.keystore.aws -}}
{{- if kindIs "invalid" $settings -}}
{{- $_ := set $config.keystore.aws $service dict -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.rootKey.existingSecret (not (include "kms.isEmbedded" .)) -}}
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
