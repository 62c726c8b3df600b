# `kes identity` is meant for $(…): a key alone, an identity alone, and the key in a file again.
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
# What is no Ed25519 key is no API key.
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec.key
! kes identity ec.key >out 2>errors
[ ! -s out ] && grep -q 'unsupported private key' errors && ! grep -q BEGIN errors
