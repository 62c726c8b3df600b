# A demo makes the identity of MinIO and cuts both values out of one line with sed.
text=$(kes identity new minio 2>errors)
flat=$(echo $text)
key=$(sed -n 's/^.*Your API key: *\([^ ]*\).*$/\1/p' <<<"$flat")
identity=$(sed -n 's/^.*Your Identity: *\([^ ]*\).*$/\1/p' <<<"$flat")
[[ $key == kes:v1:* && $identity =~ ^[0-9a-f]{64}$ && ! -s errors ]]
[ "$(kes identity of "$key")" = "$identity" ]

# Other scripts take the first text in the form of a key and the last 64 hex digits, count lines, or take the words after a label.
kes identity new --key client.key --cert client.crt client >text
[ "$(kes identity of "$(grep -Eo 'kes:v1:[A-Za-z0-9+/=]+' text | head -n 1)")" = "$(grep -Eo '[0-9a-f]{64}' text | tail -n 1)" ]
[ "$(sed -n 3p text | tr -d ' ')" = "$(awk '/Your API key:/ { getline; getline; print $1 }' text)" ]
[ "$(sed -n 9p text | tr -d ' ')" = "$(kes identity of client.crt | grep -Eio '[0-9a-f]{64}')" ]
[ "$(awk '/private key is stored at/ { print $NF }' text)" = client.key ]
[ "$(awk '/certificate is stored at/ { print $NF }' text)" = client.crt ]

# Scripts that run twice use the flag for overwriting. Without it the old key stays.
! kes identity new --key client.key --cert client.crt client >again 2>errors
grep -q -- --force errors
kes identity new -f --key client.key --cert client.crt client >again
! cmp -s text again
