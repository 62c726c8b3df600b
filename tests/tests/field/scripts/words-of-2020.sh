# The guide of 2020 and the scripts that follow it.
kes tool identity new --server --key server.key --cert server.cert --ip "127.0.0.1" --dns localhost >/dev/null
kes tool identity new --key=root.key --cert=root.cert root -t 24h >/dev/null
openssl x509 -in server.cert -noout -text | grep -q 'IP Address:127.0.0.1'
openssl x509 -in root.cert -noout -subject | grep -Eq 'CN ?= ?root'
openssl x509 -in root.cert -noout -checkend 80000
! openssl x509 -in root.cert -noout -checkend 90000
# Without names the command wrote these files.
kes tool identity new --time 2160h minio >/dev/null
[ -s private.key ] && [ -s public.crt ]
! kes tool identity new minio >/dev/null 2>errors
grep -q -- --force errors
[ "$(kes tool identity of root.cert)" = "$(kes tool identity of <root.cert)" ]
[ "$(kes tool identity of --hash SHA256 root.cert)" = "$(kes identity of root.cert)" ]

kes server --addr "127.0.0.1:$PORT" --key=server.key --cert=server.cert --root="$(kes tool identity of root.cert)" --auth=off >kes.log 2>&1 &
server=$!
trap 'kill $server' EXIT
export KES_SERVER=https://127.0.0.1:$PORT KES_CLIENT_TLS_KEY_FILE=root.key KES_CLIENT_TLS_CERT_FILE=root.cert
for _ in $(seq 600); do kes key create my-key -k 2>/dev/null && break || sleep 0.1; done
ciphertext=$(kes key derive my-key -k | sed 's/.*"ciphertext":"\([^"]*\)".*/\1/')
kes key decrypt my-key "$ciphertext" -k | grep -q '^{"plaintext":"'
kes key create imported "$(head -c 32 /dev/urandom | base64)" -k
[ "$(kes key list -k | tail -n +2 | tr '\n' ' ')" = 'imported my-key ' ]
kes key delete my-key -k
