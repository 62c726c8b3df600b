# Scripts that set up applications ask the server about policies.
kes identity new --key server.key --cert server.crt --ip 127.0.0.1 localhost >/dev/null
admin=$(kes identity) app=$(kes identity)
cat >config.yml <<YAML
version: v1
address: 127.0.0.1:$PORT
admin:
  identity: $(kes identity of "$admin")
tls:
  key: server.key
  cert: server.crt
policy:
  app:
    allow:
    - /v1/key/create/my-*
    - /v1/key/generate/my-*
    deny:
    - /v1/key/create/my-no*
    identities:
    - $(kes identity of "$app")
  other:
    allow:
    - /v1/status
keystore:
  fs:
    path: keys
YAML
mkdir keys
kes server --config config.yml >kes.log 2>&1 &
server=$!
trap 'kill $server' EXIT
export MINIO_KES_SERVER=https://127.0.0.1:$PORT MINIO_KES_API_KEY=$admin
for _ in $(seq 600); do kes status -k --short >status 2>/dev/null && break || sleep 0.1; done
[ "$(cat status)" = "● 127.0.0.1:$PORT" ]

# A pipe gets JSON. People get labels and dates.
[ "$(kes policy show -k app | grep -o '"allow":{[^}]*}' | grep -o '/v1/[a-z/]*my-\*' | tr '\n' ' ')" = '/v1/key/create/my-* ' ]
kes policy show -k app | grep -q '"/v1/key/generate/my-\*":{}},"deny":{"/v1/key/create/my-no\*":{}},"created_at":"'
! kes policy show -k other | grep -q deny
[ "$(kes policy ls -k | tail -n +2 | tr '\n' ' ')" = 'app other ' ]
[ "$(kes policy ls -k | grep -v '^Key$' | wc -l)" = 2 ]
[ "$(kes policy info -k app | awk '$1 == "Name" { print $2 }')" = app ]
[[ $(kes policy info -k app | sed -n 's/^Date  *//p') =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}\ [0-9:]{8}$ ]]
[ "$(kes policy info -k app | awk '/^Created by/ { print $3 }')" = "$(kes identity of "$admin")" ]
id=$(kes identity of "$app")
[ "$(kes identity info -k "$id" | awk '$1 == "Policy" { print $2 }')" = app ]
[ "$(kes identity info -k "$id" | awk '$1 == "Role" { print $2 }') $(kes identity info -k | awk '$1 == "Role" { print $2 }')" = 'User Admin' ]
[[ $(kes identity info -k "$id" | grep '^Created At') =~ ^Created\ At\ \ [0-9-]{10}\ [0-9:]{8}$ ]]
kes ls -k -i | grep -qx "$id"
kes ls -k -p --json | grep -qx '\["app","other"\]'
[ "$(kes ls -k --json)" = null ]
kes status -k --api --json | grep -q '^\[{"method":"'
[ "$(kes status -k --color always --short | cut -c1)" = $'\e' ]
[ "$(kes status -k --color never --short)" = "● 127.0.0.1:$PORT" ]
[ "$(MINIO_KES_SERVER=https://127.0.0.1:$PORT,https://localhost:$PORT kes status -k -s)" = "● 127.0.0.1:$PORT" ]
