# The walk of 2020: Vault, KES and MinIO, with the names and flags of that time. NEW marks what today's programs need
# instead. @VAULT@, @KES@ and @MINIO@ are free ports.
set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
until_listening() { for _ in $(seq 300); do (: < "/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.1; done; return 1; }

# Vault has a self-signed certificate that is a CA. Its only name is CN=localhost.
openssl ecparam -genkey -name prime256v1 2>/dev/null | openssl ec -out vault-tls.key 2>/dev/null
openssl req -new -x509 -days 365 -key vault-tls.key -out vault-tls.crt -subj "/C=US/ST=state/L=location/O=organization/CN=localhost"
# NEW: `storage "raft"` in the place of the backend `file`, which OpenBao does not have, and `disable_mlock`.
mkdir -p vault/file
cat > vault-config.json <<EOF
{
  "api_addr": "https://127.0.0.1:@VAULT@",
  "cluster_addr": "https://127.0.0.1:@CLUSTER@",
  "disable_mlock": true,
  "storage": { "raft": { "path": "vault/file", "node_id": "vault" } },
  "default_lease_ttl": "168h",
  "max_lease_ttl": "720h",
  "listener": {
    "tcp": {
      "address": "127.0.0.1:@VAULT@",
      "tls_cert_file": "vault-tls.crt",
      "tls_key_file": "vault-tls.key",
      "tls_min_version": "tls12"
    }
  }
}
EOF
vault server -config vault-config.json > vault.log 2>&1 &
until_listening @VAULT@
export VAULT_ADDR='https://127.0.0.1:@VAULT@'
export VAULT_SKIP_VERIFY=true
vault operator init > vault-init.txt
for share in 1 2 3; do vault operator unseal "$(awk "/Unseal Key $share/ {print \$4}" vault-init.txt)" > /dev/null; done
export VAULT_TOKEN=$(awk '/Initial Root Token/ {print $4}' vault-init.txt)
for _ in $(seq 100); do vault secrets enable kv && break; sleep 0.1; done
cat > minio-key-policy.hcl <<EOF
path "kv/minio/*" {
  capabilities = [ "create", "read", "delete" ]
}
EOF
vault policy write minio-key-policy ./minio-key-policy.hcl
vault auth enable approle
vault write auth/approle/role/kes-role token_num_uses=0 secret_id_num_uses=0 period=5m
vault write auth/approle/role/kes-role policies=minio-key-policy
ROLE_ID=$(vault read -field=role_id auth/approle/role/kes-role/role-id)
SECRET_ID=$(vault write -f -field=secret_id auth/approle/role/kes-role/secret-id)

# KES.
openssl ecparam -genkey -name prime256v1 2>/dev/null | openssl ec -out kes-tls.key 2>/dev/null
# NEW: a subjectAltName, and no CA, which today's Go clients insist on.
openssl req -new -x509 -days 365 -key kes-tls.key -out kes-tls.crt -subj "/C=US/ST=state/L=location/O=organization/CN=localhost" \
    -addext "subjectAltName=IP:127.0.0.1" -addext "basicConstraints=critical,CA:FALSE"
kes tool identity new --key=minio.key --cert=minio.cert MinIO
MINIO_IDENTITY=$(kes tool identity of minio.cert)
[[ $MINIO_IDENTITY =~ ^[0-9a-f]{64}$ ]]
cat > server-config.toml <<EOF
address = "127.0.0.1:@KES@"
root = "disabled"

[tls]
key  = "kes-tls.key"
cert = "kes-tls.crt"

[policy.minio]
paths      = [ "/v1/key/create/minio-*", "/v1/key/generate/minio-*", "/v1/key/decrypt/minio-*" ]
identities = [ "${MINIO_IDENTITY}" ]

[cache.expiry]
all    = "5m0s"
unused = "20s"

[keystore.vault]
address = "https://127.0.0.1:@VAULT@"
name    = "minio"

[keystore.vault.approle]
id     = "${ROLE_ID}"
secret = "${SECRET_ID}"
retry  = "15s"

[keystore.vault.tls]
ca = "vault-tls.crt"

[keystore.vault.status]
ping = "10s"
EOF
kes server --config=server-config.toml --mlock --root=disabled --mtls-auth=ignore > kes.log 2>&1 &
until_listening @KES@

export KES_SERVER=https://127.0.0.1:@KES@
export KES_CLIENT_TLS_KEY_FILE=minio.key
export KES_CLIENT_TLS_CERT_FILE=minio.cert
kes key create minio-key-1 -k
kes key derive minio-key-1 -k
if kes key create my-key-1 -k 2> denied.txt; then echo "my-key-1 was made" >&2; exit 1; fi
grep "not authorized: insufficient permissions" denied.txt

# MinIO. NEW: MINIO_ROOT_*, and CAPATH in the place of CA_PATH.
export MINIO_KMS_KES_ENDPOINT=https://127.0.0.1:@KES@
export MINIO_KMS_KES_KEY_FILE=$PWD/minio.key
export MINIO_KMS_KES_CERT_FILE=$PWD/minio.cert
export MINIO_KMS_KES_CAPATH=$PWD/kes-tls.crt
export MINIO_KMS_KES_KEY_NAME=minio-key-1
export MINIO_KMS_AUTO_ENCRYPTION=on
export MINIO_ROOT_USER=minio
export MINIO_ROOT_PASSWORD=minio123
minio server --address 127.0.0.1:@MINIO@ data > minio.log 2>&1 &
until_listening @MINIO@
for _ in $(seq 300); do mc alias set local http://127.0.0.1:@MINIO@ minio minio123 > /dev/null 2>&1 && break; sleep 0.1; done
mc mb local/bucket
mc cp vault-config.json local/bucket/
mc stat local/bucket/vault-config.json
mc cat local/bucket/vault-config.json | cmp - vault-config.json
