# A reader that takes only the beginning is no failure of the command.
set -o pipefail
kes server --dev --addr 127.0.0.1:$PORT >kes.log 2>&1 &
servers=$!
trap 'kill $servers' EXIT
for _ in $(seq 600); do grep -q 'Server is up and running...' kes.log && break || sleep 0.1; done
export MINIO_KES_SERVER=https://127.0.0.1:$PORT
MINIO_KES_API_KEY=$(awk '$1=="API" && $2=="Key" {print $3}' kes.log)
export MINIO_KES_API_KEY
kes key create -k app-key
for _ in $(seq 20); do
    kes identity new | grep -q 'API key'
    kes identity new | head -1 >first-line
    kes key info -k app-key | grep -q app-key
    kes identity info -k | grep -q Identity
done
# A second server beside the first and a second run of the script find nothing of the first.
kes server --dev --addr 127.0.0.1:$OTHER_PORT >other.log 2>&1 &
servers="$servers $!"
for _ in $(seq 600); do grep -q 'Server is up and running...' other.log && break || sleep 0.1; done
MINIO_KES_SERVER=https://127.0.0.1:$OTHER_PORT MINIO_KES_API_KEY=$(awk '$1=="API" && $2=="Key" {print $3}' other.log) kes key create -k app-key
# Links and devices stay unchanged.
ln -s /proc/self/fd/1 stdout
kes identity new -f --key link.key --cert stdout | grep 'BEGIN CERTIFICATE'
[ -L stdout ]
! kes identity new --key no.key --cert nowhere/no.crt 2>errors
[ ! -e no.key ]
