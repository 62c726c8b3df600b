//! Values of the chart.

/// Values by what they are for. Each has to render, and its config has to load.
pub const CASES: [(&str, &str); 16] = [
    ("fs", "tls: {existingSecret: cert}\nrootKey: {existingSecret: root}\nconfig: {keystore: {fs: {}}}"),
    (
        "fs-first-start",
        "tls: {existingSecret: cert}\nrootKey: {existingSecret: root, key: my_root.key}\n\
         persistence: {createStore: true, storageClass: fast, size: 10Gi, annotations: {a: b}}\nconfig: {keystore: {fs: {}}}",
    ),
    (
        "fs-existing-claim",
        "tls: {existingSecret: cert}\nreplicas: 1\npersistence: {existingClaim: old, storageClass: '-'}\n\
         config: {keystore: {fs: {}}, kms: {aws: {key: 'arn:aws:kms:eu-central-1:111122223333:key/1234', region: eu-central-1}}}",
    ),
    (
        "vault",
        "tls: {existingSecret: cert}\ncredentials: {existingSecret: vault}\n\
         extraEnv: [{name: VAULT_ROLE_ID, valueFrom: {secretKeyRef: {name: vault, key: role-id}}}]\n\
         config:\n  keystore:\n    vault:\n      endpoint: https://vault.vault.svc:8200\n      version: v2\n      prefix: minio\n      \
         approle: {id: '${VAULT_ROLE_ID}', secret_file: /etc/kms/credentials/secret-id, retry: 15s}\n      \
         tls: {ca: /etc/kms/credentials/ca.crt}\n",
    ),
    (
        "vault-kubernetes",
        "tls: {existingSecret: cert}\nserviceAccount: {token: {enabled: true, audience: vault}}\n\
         config: {keystore: {vault: {endpoint: 'https://vault:8200', kubernetes: {role: kms, jwt: /var/run/secrets/kms/token}}}}",
    ),
    (
        "postgres",
        "tls: {existingSecret: cert}\nrootKey: {existingSecret: root}\ncredentials: {existingSecret: database}\nreplicas: 3\n\
         config: {keystore: {postgres: {host: [a, b], port: [5432, 5433], pool: 8, user: kms, database: keys,\n\
         password_file: /etc/kms/credentials/password, tls: {mode: verify-full}}}}",
    ),
    (
        "postgres-roots",
        "tls: {existingSecret: cert}\nconfig:\n  keystore: {postgres: {url: 'postgresql://kms@db/keys', password: '${PGPASSWORD}'}}\n  \
         kms:\n  - id: vault\n    vault: {endpoint: 'https://vault:8200', token: {value: '${TOKEN}'}, transit: {key: kms}}\n  \
         - aws: {key: 'arn:aws:kms:eu-central-1:111122223333:key/1234', region: eu-central-1}\n\
         extraEnv: [{name: TOKEN, value: t}, {name: PGPASSWORD, value: p}]",
    ),
    (
        "aws",
        "tls: {existingSecret: cert}\n\
         serviceAccount: {annotations: {eks.amazonaws.com/role-arn: 'arn:aws:iam::111122223333:role/kms'}}\n\
         config: {keystore: {aws: {kms: {region: eu-central-1, reuse: {max_age: 5m, max_uses: 4294967296}, deletion_window: 30}}}}",
    ),
    (
        "aws-secrets",
        "tls: {existingSecret: cert}\nimage: {repository: registry.example.com/kms, digest: \
         'sha256:0000000000000000000000000000000000000000000000000000000000000000'}\nimagePullSecrets: [{name: pull}]\n\
         config: {keystore: {aws: {secretsmanager: {region: eu-central-1, kmskey: alias/minio}}}}",
    ),
    (
        "cert-manager",
        "tls: {certManager: {enabled: true, issuerRef: {name: ca, kind: ClusterIssuer}, dnsNames: [kms.example.com], \
         ipAddresses: [10.0.0.1]}}\nconfig: {keystore: {memory: {}}}",
    ),
    (
        "network-policy",
        "tls: {existingSecret: cert}\nnetworkPolicy: {enabled: true}\nconfig: {keystore: {memory: {}}}",
    ),
    (
        "network-policy-peers",
        "tls: {existingSecret: cert}\nconfig: {keystore: {memory: {}}}\npodDisruptionBudget: {enabled: true, maxUnavailable: 50%}\n\
         service: {type: LoadBalancer, annotations: {a: b}, loadBalancerSourceRanges: [10.0.0.0/8]}\n\
         networkPolicy:\n  enabled: true\n  clients: [{namespaceSelector: {matchLabels: {tenant: minio}}}]\n  \
         monitoring: [{namespaceSelector: {}, podSelector: {matchLabels: {app: prometheus}}}]\n  \
         egress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}], ports: [{port: 8200, protocol: TCP}]}]",
    ),
    (
        "monitoring",
        "tls: {existingSecret: cert}\nconfig: {keystore: {memory: {}}}\nmonitoring:\n  \
         serviceMonitor: {enabled: true, interval: 15s, labels: {release: prometheus}}\n  \
         prometheusRule: {enabled: true, labels: {release: prometheus}}\n  dashboard: {enabled: true}",
    ),
    (
        "monitoring-renamed",
        "tls: {existingSecret: cert}\nnameOverride: keyserver\nfullnameOverride: keyserver\nconfig: {keystore: {memory: null}}\n\
         monitoring: {serviceMonitor: {enabled: true}}",
    ),
    (
        "fs-root-in-credentials",
        "tls: {existingSecret: cert}\ncredentials: {existingSecret: root}\nimage: {repository: 'registry.example.com:5000/a/kms', tag: v1.2_3}\n\
         config: {keystore: {fs: {}}, kms: [{local: {root_key_file: /etc/kms/credentials/root.key}}]}\n\
         extraVolumes: [{name: more, emptyDir: {}}]\nextraVolumeMounts: [{name: more, mountPath: /var/lib/kms-more}]",
    ),
    (
        "everything-else",
        "tls: {existingSecret: cert}\nfullnameOverride: keys\npriorityClassName: high\npreStopSeconds: 0\n\
         extraEnv: [{name: KMS_CACHE__EXPIRY__ANY, value: 1m}]\nextraEnvFrom: [{secretRef: {name: more}}]\n\
         extraVolumes: [{name: audit, emptyDir: {}}]\nextraVolumeMounts: [{name: audit, mountPath: /var/log/kms}]\n\
         podLabels: {team: storage}\npodAnnotations: {a: b}\nnodeSelector: {disk: ssd}\n\
         tolerations: [{key: a, operator: Exists}]\nserviceAccount: {create: false, name: other}\n\
         affinity: {nodeAffinity: {}}\ntopologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]\n\
         resources: {limits: {memory: 256Mi}}\nprobes: {port: 9100}\nconfig:\n  keystore: {memory: {}}\n  threads: 2\n  \
         admin: {identity: disabled}\n  log: {error: on, audit: on, audit_file: /var/log/kms/audit.log}\n  \
         api: {/v1/ready: {skip_auth: on, timeout: 15s}}\n  keys: [{name: minio-default-key, rotate_after: 90d}, {name: 'b'}]\n  \
         cache: {expiry: {any: 1m, unused: 30s, offline: 0s}}\n  deletion: {grace: 30d}\n  \
         policy: {my-policy: {allow: ['/v1/key/create/<*'], deny: [], identities: ['${NOBODY}']}}\n",
    ),
];
