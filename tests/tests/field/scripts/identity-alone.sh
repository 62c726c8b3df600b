# `kes identity` is made for $(…). It prints only a key or only an identity, and reads a key from a file.
export KES_API_KEY=$(kes identity)
identity=$(kes identity "$KES_API_KEY")
[ ${#identity} = 64 ]
[ "$identity" = "$(kes identity of "$KES_API_KEY")" ]
kes identity new --key client.key --cert client.crt >text
[ "$(kes identity client.key)" = "$(awk '/^   kes:v1:/ { print $1 }' text)" ]
[ "$(kes identity client.crt)" = "$(kes identity "$(kes identity client.key)")" ]
read -r alone < <(kes identity client.crt)
[ "$alone" = "$(kes identity client.crt)" ]
! kes identity missing 2>errors
grep -q 'missing: no such file' errors
# Only an Ed25519 key is an API key.
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.key
! kes identity ec.key >out 2>errors
[ ! -s out ] && grep -q 'unsupported private key' errors && ! grep -q BEGIN errors
