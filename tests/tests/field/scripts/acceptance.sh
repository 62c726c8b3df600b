# An acceptance test of backups. It starts a development server, takes the key from the banner and gets the certificate by openssl.
kes server --dev --addr "127.0.0.1:$PORT" >kes.log 2>&1 &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 600); do grep -q 'Server is up and running' kes.log && break || sleep 0.1; done
export MINIO_KES_SERVER=https://127.0.0.1:$PORT
export MINIO_KES_API_KEY=$(awk '$1=="API" && $2=="Key" {print $3}' kes.log)
[ "$(grep 'API Key' kes.log | awk '{print $3}')" = "$MINIO_KES_API_KEY" ]
openssl s_client -showcerts -connect "127.0.0.1:$PORT" </dev/null 2>/dev/null | openssl x509 >public.crt
kes key create --insecure backup-key
! kes key create --insecure backup-key 2>errors
grep -q 'key already exists' errors
SSL_CERT_FILE=public.crt kes key ls | grep -qx backup-key
ciphertext=$(kes key dek -k backup-key | sed 's/.*"ciphertext":"\([^"]*\)".*/\1/')
[ "$(kes key decrypt -k backup-key "$ciphertext" | tr -d '\n' | sed 's/{"plaintext":"\(.*\)"}/\1/' | base64 -d | wc -c)" = 32 ]
ciphertext=$(printf hello | kes key encrypt -k backup-key - | cut -d'"' -f4)
[ "$(kes key decrypt -k backup-key "$ciphertext" | cut -d'"' -f4 | base64 -d)" = hello ]
[ -z "$(kes key rm -k backup-key 2>&1)" ]
