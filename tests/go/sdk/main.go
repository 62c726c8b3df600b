// Command kes-go drives a key server through the official SDK, as MinIO does, and prints a line a case.
//
// It takes from the environment: KES_TEST_ENDPOINT (several: comma-separated), KES_TEST_CA (PEM file), KES_TEST_ADMIN_KEY
// and KES_TEST_APP_KEY (API keys; the second belongs to a policy that allows /v1/status and all key operations on my-* but
// denies generate on my-internal*), KES_TEST_CERT and KES_TEST_KEY (PEM files of a client of the same policy),
// KES_TEST_NO_IMPORT (set: imports must answer 501), KES_TEST_KEEPS_DELETED (set: a deleted key keeps its name, and cannot
// be read), KES_TEST_MANY (a number of keys to create and page through).
// The server has to hold no key at first. It exits with 1 if any case failed.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/kms-go/kes"
)

var (
	admin, app, files, stranger *kes.Client
	failed                      int
)

func main() {
	admin = client(apiKey(env("KES_TEST_ADMIN_KEY")))
	app = client(apiKey(env("KES_TEST_APP_KEY")))
	files = client(must(tls.LoadX509KeyPair(env("KES_TEST_CERT"), env("KES_TEST_KEY"))))
	stranger = client(apiKey(must(kes.GenerateAPIKey(nil)).String()))

	run("version", version)
	run("status and readiness", status)
	run("create, and create again", create)
	run("import", importKey)
	run("describe", describe)
	run("generate and decrypt", generate)
	run("encrypt and decrypt", encrypt)
	run("an absent and an empty context are the same", emptyContext)
	run("a wrong context is not authentic", wrongContext)
	run("hmac", hmac)
	run("a missing key is not found", missing)
	run("a denied key is not allowed", denied)
	run("an unknown identity is not allowed", unknown)
	run("an invalid name is refused", invalid)
	run("a client with certificate files", certificateFiles)
	run("many goroutines on one connection", concurrent)
	run("list by prefix", listPrefix)
	run("list by a prefix that ends in '-'", listDash)
	run("list by a prefix that ends in '*'", listStar)
	run("list everything", listEverything)
	run("list what the policy does not allow", listDenied)
	run("delete", remove)
	run("routes", apis)
	run("policies", policies)
	run("identities", identities)
	run("a client asks who it is", self)
	run("metrics", metrics)
	run("the audit log", auditLog)
	run("the error log", errorLog)
	if many := os.Getenv("KES_TEST_MANY"); many != "" {
		run("page through many keys", func(ctx context.Context) error {
			return pages(ctx, must(strconv.Atoi(many)))
		})
	}
	if failed > 0 {
		fmt.Printf("%d cases failed\n", failed)
		os.Exit(1)
	}
	fmt.Println("all cases passed")
}

func version(ctx context.Context) error {
	version, err := app.Version(ctx)
	if err == nil && version == "" {
		err = errors.New("the version is empty")
	}
	return err
}

func status(ctx context.Context) error {
	if _, err := app.Status(ctx); err != nil {
		return err
	}
	state, err := admin.Status(ctx)
	if err != nil {
		return err
	}
	if state.OS == "" || state.Arch == "" || state.CPUs == 0 || !state.KeyStoreReachable {
		return fmt.Errorf("odd status: %+v", state)
	}
	if ready, err := admin.IsReady(ctx); err != nil || !ready {
		return fmt.Errorf("ready: %v, %v", ready, err)
	}
	return nil
}

func create(ctx context.Context) error {
	if err := app.CreateKey(ctx, "my-key"); err != nil {
		return err
	}
	return is(app.CreateKey(ctx, "my-key"), kes.ErrKeyExists)
}

func importKey(ctx context.Context) error {
	for name, cipher := range map[string]kes.KeyAlgorithm{"my-import-aes": kes.AES256, "my-import-chacha": kes.ChaCha20} {
		request := &kes.ImportKeyRequest{Key: random(32), Cipher: cipher}
		err := app.ImportKey(ctx, name, request)
		if os.Getenv("KES_TEST_NO_IMPORT") != "" {
			var answer kes.Error
			if !errors.As(err, &answer) || answer.Status() != http.StatusNotImplemented {
				return fmt.Errorf("want 501, got %v", err)
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := is(app.ImportKey(ctx, name, request), kes.ErrKeyExists); err != nil {
			return err
		}
		if err := roundTrip(ctx, app, name, []byte("context")); err != nil {
			return err
		}
		info, err := app.DescribeKey(ctx, name)
		if err != nil {
			return err
		}
		if info.Algorithm != cipher {
			return fmt.Errorf("'%s' has algorithm %v", name, info.Algorithm)
		}
		if err := app.DeleteKey(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func describe(ctx context.Context) error {
	info, err := app.DescribeKey(ctx, "my-key")
	if err != nil {
		return err
	}
	creator := apiIdentity(env("KES_TEST_APP_KEY"))
	if info.Name != "my-key" || info.CreatedBy != creator || time.Since(info.CreatedAt).Abs() > time.Hour {
		return fmt.Errorf("odd description: %+v", info)
	}
	return nil
}

func generate(ctx context.Context) error {
	return roundTrip(ctx, app, "my-key", []byte(`{"bucket":"bucket/object"}`))
}

func encrypt(ctx context.Context) error {
	for _, size := range []int{0, 1, 32, 4096, 500_000} {
		plaintext := random(size)
		ciphertext, err := app.Encrypt(ctx, "my-key", plaintext, []byte("context"))
		if err != nil {
			return err
		}
		opened, err := app.Decrypt(ctx, "my-key", ciphertext, []byte("context"))
		if err != nil {
			return err
		}
		if !bytes.Equal(opened, plaintext) {
			return fmt.Errorf("%d bytes did not come back", size)
		}
	}
	return nil
}

func emptyContext(ctx context.Context) error {
	dek, err := app.GenerateKey(ctx, "my-key", nil)
	if err != nil {
		return err
	}
	for _, context := range [][]byte{nil, {}} {
		plaintext, err := app.Decrypt(ctx, "my-key", dek.Ciphertext, context)
		if err != nil {
			return err
		}
		if !bytes.Equal(plaintext, dek.Plaintext) {
			return errors.New("another plaintext")
		}
	}
	return nil
}

func wrongContext(ctx context.Context) error {
	dek, err := app.GenerateKey(ctx, "my-key", []byte("context"))
	if err != nil {
		return err
	}
	for _, context := range [][]byte{nil, []byte("contex"), []byte("another")} {
		_, err := app.Decrypt(ctx, "my-key", dek.Ciphertext, context)
		if err := is(err, kes.ErrDecrypt); err != nil {
			return err
		}
	}
	_, err = app.Decrypt(ctx, "my-key", random(80), nil)
	return is(err, kes.ErrDecrypt)
}

func hmac(ctx context.Context) error {
	first, err := app.HMAC(ctx, "my-key", []byte("message"))
	if err != nil {
		return err
	}
	again, err := app.HMAC(ctx, "my-key", []byte("message"))
	if err != nil {
		return err
	}
	other, err := app.HMAC(ctx, "my-key", []byte("another"))
	if err != nil {
		return err
	}
	if len(first) != 32 || !bytes.Equal(first, again) || bytes.Equal(first, other) {
		return fmt.Errorf("odd HMACs: %x %x %x", first, again, other)
	}
	return nil
}

func missing(ctx context.Context) error {
	_, describe := app.DescribeKey(ctx, "my-missing")
	_, generate := app.GenerateKey(ctx, "my-missing", nil)
	_, encrypt := app.Encrypt(ctx, "my-missing", []byte("x"), nil)
	_, decrypt := app.Decrypt(ctx, "my-missing", random(80), nil)
	_, hmac := app.HMAC(ctx, "my-missing", []byte("x"))
	remove := app.DeleteKey(ctx, "my-missing")
	for i, err := range []error{describe, generate, encrypt, decrypt, hmac, remove} {
		if err := is(err, kes.ErrKeyNotFound); err != nil {
			return fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return nil
}

func denied(ctx context.Context) error {
	if err := admin.CreateKey(ctx, "my-internal"); err != nil {
		return err
	}
	_, internal := app.GenerateKey(ctx, "my-internal", nil)
	_, other := app.GenerateKey(ctx, "other", nil)
	for _, err := range []error{internal, other, app.CreateKey(ctx, "other")} {
		if err := is(err, kes.ErrNotAllowed); err != nil {
			return err
		}
	}
	left = append(left, "my-internal")
	return admin.DeleteKey(ctx, "my-internal")
}

func unknown(ctx context.Context) error {
	if _, err := stranger.Version(ctx); err != nil {
		return fmt.Errorf("the version is for everyone: %w", err)
	}
	_, err := stranger.GenerateKey(ctx, "my-key", nil)
	return is(err, kes.ErrNotAllowed)
}

func invalid(ctx context.Context) error {
	for _, name := range []string{"my.key", "my-key-", "_", "schlüssel"} {
		err := admin.CreateKey(ctx, name)
		want := fmt.Sprintf("key name '%s' is empty, too long or contains invalid characters", name)
		var answer kes.Error
		if !errors.As(err, &answer) || answer.Status() != http.StatusBadRequest || answer.Error() != want {
			return fmt.Errorf("'%s': %v", name, err)
		}
	}
	return nil
}

func certificateFiles(ctx context.Context) error {
	return roundTrip(ctx, files, "my-key", []byte("context"))
}

// concurrent shares one client between goroutines; what it sends has to travel on one HTTP/2 connection.
func concurrent(ctx context.Context) error {
	app := client(apiKey(env("KES_TEST_APP_KEY")))
	app.Endpoints = app.Endpoints[:1]
	wire := &wire{Transport: app.HTTPClient.Transport.(*http.Transport)}
	app.HTTPClient.Transport = wire
	if err := roundTrip(ctx, app, "my-key", nil); err != nil {
		return err
	}
	var group sync.WaitGroup
	problems := make(chan error, 64)
	for worker := range 64 {
		group.Go(func() {
			for round := range 20 {
				context := fmt.Appendf(nil, "%d/%d", worker, round)
				if err := roundTrip(ctx, app, "my-key", context); err != nil {
					problems <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(problems)
	if err := <-problems; err != nil {
		return err
	}
	if opened, old := wire.opened.Load(), wire.old.Load(); opened != 1 || old != 0 {
		return fmt.Errorf("%d connections, %d answers that were not HTTP/2", opened, old)
	}
	return nil
}

// wire counts what a client's transport does: connections that it opened, answers that were not HTTP/2.
type wire struct {
	*http.Transport
	opened, old atomic.Int64
}

func (w *wire) RoundTrip(request *http.Request) (*http.Response, error) {
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
		TLSHandshakeDone: func(tls.ConnectionState, error) { w.opened.Add(1) },
	}))
	response, err := w.Transport.RoundTrip(request)
	if err == nil && response.ProtoMajor != 2 {
		w.old.Add(1)
	}
	return response, err
}

var listed = []string{"my-list-a", "my-list-b", "my-lists", "zz-other"}

func listPrefix(ctx context.Context) error {
	return withKeys(ctx, listed, func() error {
		if err := lists(ctx, app, "my-nothing", nil); err != nil {
			return err
		}
		return lists(ctx, app, "my-list", listed[:3])
	})
}

func listDash(ctx context.Context) error {
	return withKeys(ctx, listed, func() error { return lists(ctx, app, "my-list-", listed[:2]) })
}

func listStar(ctx context.Context) error {
	return withKeys(ctx, listed, func() error { return lists(ctx, app, "my-list*", listed[:3]) })
}

func listEverything(ctx context.Context) error {
	return withKeys(ctx, listed, func() error {
		everything := append([]string{"my-key"}, listed...)
		if err := lists(ctx, admin, "", everything); err != nil {
			return err
		}
		return lists(ctx, admin, "*", everything)
	})
}

func listDenied(ctx context.Context) error {
	for _, prefix := range []string{"", "zz"} {
		_, _, err := app.ListKeys(ctx, prefix, -1)
		if err := is(err, kes.ErrNotAllowed); err != nil {
			return fmt.Errorf("list '%s': %w", prefix, err)
		}
	}
	return nil
}

func remove(ctx context.Context) error {
	if err := app.DeleteKey(ctx, "my-key"); err != nil {
		return err
	}
	_, err := app.GenerateKey(ctx, "my-key", nil)
	if !keepsDeleted() {
		return is(err, kes.ErrKeyNotFound)
	}
	left = append(left, "my-key")
	var answer kes.Error
	if !errors.As(err, &answer) || answer.Status() != http.StatusConflict {
		return fmt.Errorf("want 409, got %v", err)
	}
	return is(app.CreateKey(ctx, "my-key"), kes.ErrKeyExists)
}

// left holds names that are deleted, or were made for a test, and are listed where deleted keys keep their names.
var left []string

func keepsDeleted() bool { return os.Getenv("KES_TEST_KEEPS_DELETED") != "" }

// withLeft adds to names those that are listed too because a deleted key keeps its name.
func withLeft(prefix string, names []string) []string {
	if !keepsDeleted() {
		return names
	}
	all := slices.Clone(names)
	for _, name := range left {
		if strings.HasPrefix(name, strings.TrimSuffix(prefix, "*")) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// pages follows the SDK's iterator through many keys, as admin and as a client that may list my-* only. The keys stay.
func pages(ctx context.Context, count int) error {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprintf("my-page-%06d", i)
	}
	if err := each(names, func(name string) error { return admin.CreateKey(ctx, name) }); err != nil {
		return err
	}
	return errors.Join(lists(ctx, admin, "", names), lists(ctx, app, "my-page", names), lists(ctx, app, "my-*", names))
}

// withKeys creates the keys for the time of a test.
func withKeys(ctx context.Context, names []string, test func() error) error {
	create := func(name string) error {
		err := admin.CreateKey(ctx, name)
		if keepsDeleted() && is(err, kes.ErrKeyExists) == nil {
			return nil // a test before has left it
		}
		return err
	}
	if err := each(names, create); err != nil {
		return err
	}
	err := test()
	if keepsDeleted() {
		left = append(left, names...)
		return err
	}
	return errors.Join(err, each(names, func(name string) error { return admin.DeleteKey(ctx, name) }))
}

// each does something for all names, sixteen at once, and returns the first error.
func each(names []string, do func(string) error) error {
	var group sync.WaitGroup
	problems := make(chan error, len(names))
	work := make(chan string)
	for range 16 {
		group.Go(func() {
			for name := range work {
				if err := do(name); err != nil {
					problems <- fmt.Errorf("'%s': %w", name, err)
				}
			}
		})
	}
	for _, name := range names {
		work <- name
	}
	close(work)
	group.Wait()
	close(problems)
	return <-problems
}

func lists(ctx context.Context, client *kes.Client, prefix string, want []string) error {
	iter := &kes.ListIter[string]{NextFunc: client.ListKeys}
	var names []string
	name, err := iter.SeekTo(ctx, prefix)
	for ; err == nil; name, err = iter.Next(ctx) {
		names = append(names, name)
	}
	if err != io.EOF {
		return fmt.Errorf("list '%s': %w", prefix, err)
	}
	want = withLeft(prefix, want)
	if !slices.Equal(names, want) {
		at := 0
		for at < min(len(names), len(want)) && names[at] == want[at] {
			at++
		}
		few := func(names []string) []string { return names[at:min(len(names), at+3)] }
		return fmt.Errorf("list '%s': %d names, want %d; from %d on %q, want %q",
			prefix, len(names), len(want), at, few(names), few(want))
	}
	return nil
}

func roundTrip(ctx context.Context, client *kes.Client, name string, context []byte) error {
	dek, err := client.GenerateKey(ctx, name, context)
	if err != nil {
		return err
	}
	plaintext, err := client.Decrypt(ctx, name, dek.Ciphertext, context)
	if err != nil {
		return err
	}
	if len(plaintext) != 32 || !bytes.Equal(plaintext, dek.Plaintext) {
		return errors.New("the data key did not come back")
	}
	return nil
}

func run(name string, test func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := test(ctx); err != nil {
		failed++
		fmt.Printf("FAIL %s: %v\n", name, err)
		return
	}
	fmt.Printf("ok   %s\n", name)
}

func is(err, want error) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("want %q, got %v", want, err)
}

func client(cert tls.Certificate) *kes.Client {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(must(os.ReadFile(env("KES_TEST_CA")))) {
		panic("no certificate in KES_TEST_CA")
	}
	endpoints := strings.Split(env("KES_TEST_ENDPOINT"), ",")
	client := kes.NewClientWithConfig(endpoints[0], &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		RootCAs:      pool,
	})
	client.Endpoints = endpoints
	return client
}

func apiKey(text string) tls.Certificate {
	return must(kes.GenerateCertificate(must(kes.ParseAPIKey(text))))
}

func apiIdentity(text string) kes.Identity {
	return must(kes.ParseAPIKey(text)).Identity()
}

func env(name string) string {
	value := os.Getenv(name)
	if value == "" {
		panic(name + " is not set")
	}
	return value
}

func random(size int) []byte {
	bytes := make([]byte, size)
	must(rand.Read(bytes))
	return bytes
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
