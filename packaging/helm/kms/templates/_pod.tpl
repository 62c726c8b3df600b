{{/* The template of a pod. */}}
{{- define "kms.pod" -}}
metadata:
  labels:
    {{- include "kms.selectorLabels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # A change of the config starts new pods: the server does not look for one by itself.
    checksum/config: {{ include "kms.config" . | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "kms.serviceAccountName" . }}
  automountServiceAccountToken: false
  # Otherwise a service that is called kms makes variables KMS_…, which look like settings.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: kms
      image: {{ include "kms.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: ["server", "--config", "/etc/kms/config/config.toml"]
      ports:
        - {name: https, containerPort: 7373, protocol: TCP}
        - {name: metrics, containerPort: {{ int .Values.probes.port }}, protocol: TCP}
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      # Of the process only: in an outage of the key store a restart would lose the keys in memory.
      startupProbe:
        httpGet: {path: /v1/metrics, port: metrics}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /v1/metrics, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: {path: /v1/ready, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 16
        failureThreshold: 2
      {{- if .Values.preStopSeconds }}
      lifecycle:
        preStop:
          exec:
            command: ["sleep", {{ .Values.preStopSeconds | toString | quote }}]
      {{- end }}
      {{- with .Values.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/kms/config, readOnly: true}
        - {name: tls, mountPath: /etc/kms/tls, readOnly: true}
        {{- if .Values.rootKey.existingSecret }}
        - {name: root-key, mountPath: /etc/kms/root-key, readOnly: true}
        {{- end }}
        {{- if .Values.credentials.existingSecret }}
        - {name: credentials, mountPath: /etc/kms/credentials, readOnly: true}
        {{- end }}
        {{- if .Values.serviceAccount.token.enabled }}
        - {name: token, mountPath: /var/run/secrets/kms, readOnly: true}
        {{- end }}
        {{- if include "kms.isEmbedded" . }}
        - {name: data, mountPath: /var/lib/kms}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      secret: {secretName: {{ include "kms.fullname" . }}-config, defaultMode: 0440}
    - name: tls
      secret: {secretName: {{ include "kms.tlsSecret" . | quote }}, defaultMode: 0440}
    {{- if .Values.rootKey.existingSecret }}
    - name: root-key
      secret:
        secretName: {{ .Values.rootKey.existingSecret | quote }}
        defaultMode: 0440
        items:
          - {key: {{ .Values.rootKey.key | quote }}, path: root.key}
    {{- end }}
    {{- if .Values.credentials.existingSecret }}
    - name: credentials
      secret: {secretName: {{ .Values.credentials.existingSecret | quote }}, defaultMode: 0440}
    {{- end }}
    {{- if .Values.serviceAccount.token.enabled }}
    - name: token
      projected:
        defaultMode: 0440
        sources:
          - serviceAccountToken:
              path: token
              expirationSeconds: {{ int .Values.serviceAccount.token.expirationSeconds }}
              {{- with .Values.serviceAccount.token.audience }}
              audience: {{ . | quote }}
              {{- end }}
    {{- end }}
    {{- if and (include "kms.isEmbedded" .) .Values.persistence.existingClaim }}
    - name: data
      persistentVolumeClaim: {claimName: {{ .Values.persistence.existingClaim | quote }}}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  affinity:
    {{- if .Values.affinity }}
    {{- toYaml .Values.affinity | nindent 4 }}
    {{- else }}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
        - weight: 100
          podAffinityTerm:
            topologyKey: kubernetes.io/hostname
            labelSelector:
              matchLabels:
                {{- include "kms.selectorLabels" . | nindent 16 }}
    {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
