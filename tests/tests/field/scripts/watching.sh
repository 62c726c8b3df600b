# Scripts write logs and metrics into files.
export HOME=$PWD
kes server --dev --addr "127.0.0.1:$PORT" >kes.log 2>&1 &
server=$!
trap 'kill $(jobs -p)' EXIT
for _ in $(seq 600); do grep -q 'Server is up and running' kes.log && break || sleep 0.1; done
export KES_SERVER=https://127.0.0.1:$PORT KES_API_KEY=$(awk '$1=="API" && $2=="Key" {print $3}' kes.log)

kes log -k >audit.txt &
kes log -k --json >audit.json &
kes log -k --error >errors.txt &
until grep -q key/info/nothing audit.txt || grep -q key/describe/nothing audit.txt; do kes key info -k nothing 2>/dev/null || true; done
until grep -q key/create/my-key audit.txt && grep -q key/create/my-key audit.json; do kes key create -k my-key 2>/dev/null || true; done
head -n 1 audit.txt | grep -q '^Time  *Status  *Identity  *IP  *API  *Latency$'
awk 'NR > 1 && $2 == 404 { print $5 }' audit.txt | grep -q /v1/key/describe/nothing
awk '$5 == "/v1/key/create/my-key" && $2 == 200 { print $3 }' audit.txt | grep -qE '^[0-9a-f]{20}$'
awk '$5 == "/v1/key/create/my-key" { print $1, $6 }' audit.txt | grep -qE '^[0-9]{2}:[0-9]{2}:[0-9]{2} [0-9.]+[mµn]?s$'
! grep -q $'\e' audit.txt
grep -q '^{"time":".*"path":"/v1/key/create/my-key"' audit.json
[ ! -s errors.txt ]

# A reader that ends also ends the command.
kes metric -k --rate 200ms | head -n 3 >metrics
[ "$(wc -l <metrics)" = 3 ]
grep -c '^{"kes_http_request_success":[1-9][0-9]*,"kes_http_request_error":[1-9][0-9]*,"kes_http_request_failure":0,' metrics | grep -qx 3
grep -q '"kes_http_response_time":{"10000000":[0-9]*,' metrics
grep -Eq '"kes_system_up_time":[0-9]+,"kes_system_num_cpu":' metrics
