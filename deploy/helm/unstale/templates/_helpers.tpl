{{- define "unstale.name" -}}
{{- if contains "unstale" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-unstale" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "unstale.selector" -}}
app.kubernetes.io/name: unstale
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "unstale.labels" -}}
{{ include "unstale.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "unstale.rules" -}}
{{- if and .Values.rules .Values.existingConfigMap }}{{ fail "Set either rules or existingConfigMap, not both." }}{{ end -}}
{{- if not (or .Values.rules .Values.existingConfigMap) }}{{ fail "Set rules (--set-file rules=unstale.toml), or existingConfigMap." }}{{ end -}}
{{- .Values.existingConfigMap | default (printf "%s-rules" (include "unstale.name" .)) -}}
{{- end }}

{{/* A Deployment of the worker: (dict "root" $ "role" "worker" "arguments" (list …) "processes" .Values.worker) */}}
{{- define "unstale.deployment" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "unstale.name" $root }}-{{ .role }}
  labels:
    {{- include "unstale.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  replicas: {{ .processes.replicas }}
  # A new process is ready before an old one goes: a standby first, then the leader.
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxSurge: 1
      maxUnavailable: 0
  selector:
    matchLabels:
      {{- include "unstale.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
  template:
    metadata:
      labels:
        {{- include "unstale.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .role }}
        {{- with $root.Values.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        # Other rules restart the processes.
        checksum/rules: {{ $root.Values.rules | sha256sum }}
        {{- with $root.Values.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      # The batch at hand, and loads of refreshes, may end (UNSTALE_REFRESH_GRACE is 10 s).
      terminationGracePeriodSeconds: 30
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets: {{ toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        seccompProfile:
          type: RuntimeDefault
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "unstale.selector" $root | nindent 14 }}
              app.kubernetes.io/component: {{ .role }}
      {{- with $root.Values.nodeSelector }}
      nodeSelector: {{ toYaml . | nindent 8 }}
      {{- end }}
      {{- with $root.Values.tolerations }}
      tolerations: {{ toYaml . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .role }}
          image: {{ printf "%s:%s" $root.Values.image.repository ($root.Values.image.tag | default $root.Chart.AppVersion) | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: {{ toJson .arguments }}
          envFrom:
            - secretRef:
                name: {{ $root.Values.existingSecret }}
          env:
            - name: UNSTALE_HTTP_HOST
              value: 0.0.0.0
            - name: UNSTALE_HTTP_PORT
              value: "8787"
            {{- range $name, $value := $root.Values.settings }}
            - name: {{ $name }}
              value: {{ $value | quote }}
            {{- end }}
          ports:
            - name: http
              containerPort: 8787
          # The process answers. A first start may wait for its servers.
          startupProbe:
            httpGet:
              path: /healthz
              port: http
            timeoutSeconds: 4
            failureThreshold: 30
          livenessProbe:
            httpGet:
              path: /healthz
              port: http
            timeoutSeconds: 4
            failureThreshold: 3
          # It leads without a long lag, or stands by. The route needs the token, so a process in the container asks.
          readinessProbe:
            exec:
              command:
                - python
                - -c
                - "import os, urllib.request as web; e = os.environ; web.urlopen(web.Request('http://127.0.0.1:' + e['UNSTALE_HTTP_PORT'] + '/readyz', headers={'Authorization': 'Bearer ' + e['UNSTALE_HTTP_TOKEN']}), timeout=3)"
            timeoutSeconds: 5
            failureThreshold: 3
          resources: {{ toYaml .processes.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: rules
              mountPath: /app/unstale.toml
              subPath: unstale.toml
              readOnly: true
            {{- with $root.Values.extraVolumeMounts }}{{ toYaml . | nindent 12 }}{{ end }}
      volumes:
        - name: rules
          configMap:
            name: {{ include "unstale.rules" $root }}
        {{- with $root.Values.extraVolumes }}{{ toYaml . | nindent 8 }}{{ end }}
{{- end }}
