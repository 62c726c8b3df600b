package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A signer signs requests as AWS describes it: "AWS Signature Version 4" in the reference of the API of S3.
//
// Paths have no character that would have to be escaped, and requests have no query.
type signer struct {
	user, day string
	key       []byte
}

const region = "us-east-1"

func newSigner(user, password string, at time.Time) signer {
	day := at.UTC().Format("20060102")
	key := []byte("AWS4" + password)
	for _, part := range []string{day, region, "s3", "aws4_request"} {
		key = sum(key, part)
	}
	return signer{user: user, day: day, key: key}
}

// sign adds the headers of a signature. It signs the host and all headers that the request has. The program runs on the day
// on which the signer was made, or a few seconds longer.
func (s signer) sign(request *http.Request, contentHash string, at time.Time) {
	stamp := at.UTC().Format("20060102T150405Z")
	if stamp[:8] != s.day {
		stamp = s.day + "T235959Z"
	}
	request.Header["X-Amz-Date"] = []string{stamp}
	request.Header["X-Amz-Content-Sha256"] = []string{contentHash}
	names, values := []string{"host"}, map[string]string{"host": request.Host}
	for name, value := range request.Header {
		name = strings.ToLower(name)
		names = append(names, name)
		values[name] = value[0]
	}
	slices.Sort(names)
	var canonical strings.Builder
	canonical.WriteString(request.Method + "\n" + request.URL.Path + "\n\n")
	for _, name := range names {
		canonical.WriteString(name + ":" + values[name] + "\n")
	}
	signed := strings.Join(names, ";")
	canonical.WriteString("\n" + signed + "\n" + contentHash)
	scope := s.day + "/" + region + "/s3/aws4_request"
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hash([]byte(canonical.String()))
	request.Header["Authorization"] = []string{"AWS4-HMAC-SHA256 Credential=" + s.user + "/" + scope + ", SignedHeaders=" + signed +
		", Signature=" + hex.EncodeToString(sum(s.key, text))}
}

func sum(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

func hash(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}
