# A command that fails has exit code 1, one line on stderr and nothing on stdout.
export HOME=$PWD
kes server --dev --addr "127.0.0.1:$PORT" >kes.log 2>&1 &
server=$!
trap 'kill $server' EXIT
for _ in $(seq 600); do grep -q 'Server is up and running' kes.log && break || sleep 0.1; done
export KES_SERVER=http://127.0.0.1:$PORT KES_API_KEY=$(awk '$1=="API" && $2=="Key" {print $3}' kes.log)

# An alias with a flag, flags with a value, and the flag for enclaves, which do not exist any more.
k() { kes key "$@" -k; }
k create -k --insecure my-key
k ls --json=true | grep -qx '\["my-key"\]'
k info --json=false my-key | grep -q '^Name        my-key$'
k create -e default other --enclave default

fails() { # TEXT ARGUMENT...
    local text=$1 code=0
    shift
    kes "$@" >out 2>errors || code=$?
    if [ $code != 1 ] || [ -s out ] || [ "$(wc -l <errors)" != 1 ] || ! grep -q "^Error: .*$text" errors; then
        echo "kes $*: exit code $code: $(cat out errors)"
        return 1
    fi
}
fails 'unknown flag: --bogus' key create --bogus
fails "unknown shorthand flag: 'x' in -x" ls -x
fails '"bogus" is not a kes command' bogus
fails '"bogus" is not a key command' key bogus
fails "no key name specified. See 'kes key create --help'" key create -k
fails "no policy name specified" policy show -k
fails 'no message specified' key encrypt -k my-key
fails 'too many arguments' key encrypt -k my-key a b c d
fails 'invalid argument "sometimes" for "--color" flag' key ls --color sometimes
fails 'flag needs an argument: --config' server --config
fails 'key does not exist' key info -k nothing
fails 'failed to remove key "nothing": key does not exist' key rm -k nothing
kes identity new --key client.key --cert client.crt >/dev/null
export KES_CLIENT_KEY=client.key
fails 'API key and private key file cannot be used at the same time' key ls -k
export KES_CLIENT_CERT=client.crt
fails 'API key and private key file cannot be used at the same time' ls -k -a "$KES_API_KEY"
unset KES_CLIENT_KEY
fails 'API key and certificate file cannot be used at the same time' status -k
unset KES_CLIENT_CERT
# KES 0.24 does not know the variables of 2020. They have no effect.
KES_CLIENT_TLS_KEY_FILE=client.key KES_CLIENT_TLS_CERT_FILE=client.crt kes key ls -k >out
grep -qx my-key out

kes --version | grep -q '^Version  *[0-9]'
kes --version | awk 'NR == 1 { exit !($2 ~ /^[0-9]+\.[0-9]+/) }'
[ ! -e .bashrc ]
SHELL=/bin/bash kes --auto-completion | grep -q "^Added completion to '$HOME/.bashrc'"
SHELL=/bin/bash kes --auto-completion | grep -qx 'Completion is already installed.'
[ "$(grep -c '^complete .* kes$' .bashrc)" = 1 ]
[ "$(COMP_LINE='kes key in' COMP_POINT=10 kes kes in key)" = info ]
