package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/minio/kms-go/kes"
)

func apis(ctx context.Context) error {
	routes, err := admin.APIs(ctx)
	if err != nil {
		return err
	}
	for _, route := range routes {
		if route.Path == "/v1/key/decrypt/" && route.Method == "PUT" && route.MaxBody > 0 && route.Timeout > 0 {
			return nil
		}
	}
	return fmt.Errorf("decrypt is not among %v", routes)
}

func policies(ctx context.Context) error {
	info, err := admin.DescribePolicy(ctx, "app")
	if err != nil || info.Name != "app" || info.CreatedBy != adminIdentity() || info.CreatedAt.IsZero() {
		return fmt.Errorf("describe: %+v, %v", info, err)
	}
	policy, err := admin.GetPolicy(ctx, "app")
	if err != nil {
		return err
	}
	if _, ok := policy.Allow["/v1/key/generate/my-*"]; !ok || len(policy.Deny) != 1 {
		return fmt.Errorf("odd policy: %+v", policy)
	}
	iterator := &kes.ListIter[string]{NextFunc: admin.ListPolicies}
	name, err := iterator.SeekTo(ctx, "ap")
	if err != nil || name != "app" {
		return fmt.Errorf("list: %q, %v", name, err)
	}
	if _, err = admin.DescribePolicy(ctx, "none"); !errors.Is(err, kes.ErrPolicyNotFound) {
		return fmt.Errorf("a missing policy: %v", err)
	}
	_, err = app.GetPolicy(ctx, "app")
	return is(err, kes.ErrNotAllowed)
}

func identities(ctx context.Context) error {
	application := apiIdentity(env("KES_TEST_APP_KEY"))
	info, err := admin.DescribeIdentity(ctx, application)
	if err != nil || info.Policy != "app" || info.IsAdmin {
		return fmt.Errorf("describe: %+v, %v", info, err)
	}
	iterator := &kes.ListIter[kes.Identity]{NextFunc: admin.ListIdentities}
	var all []kes.Identity
	for {
		identity, err := iterator.Next(ctx)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		all = append(all, identity)
	}
	if !slices.Contains(all, application) || !slices.Contains(all, adminIdentity()) || !slices.IsSorted(all) {
		return fmt.Errorf("odd list: %v", all)
	}
	return nil
}

func self(ctx context.Context) error {
	info, policy, err := app.DescribeSelf(ctx)
	if err != nil {
		return err
	}
	if info.Identity != apiIdentity(env("KES_TEST_APP_KEY")) || info.Policy != "app" || info.IsAdmin {
		return fmt.Errorf("odd answer: %+v", info)
	}
	if _, ok := policy.Allow["/v1/key/generate/my-*"]; !ok {
		return fmt.Errorf("odd policy: %+v", policy)
	}
	if info, _, err = admin.DescribeSelf(ctx); err != nil || !info.IsAdmin {
		return fmt.Errorf("the admin: %+v, %v", info, err)
	}
	_, _, err = stranger.DescribeSelf(ctx)
	return is(err, kes.ErrIdentityNotFound)
}

func metrics(ctx context.Context) error {
	before, err := admin.Metrics(ctx)
	if err != nil {
		return err
	}
	// Who watches is not counted, as with KES.
	if _, err = admin.Status(ctx); err != nil {
		return err
	}
	if _, _, err = admin.DescribeSelf(ctx); err != nil {
		return err
	}
	after, err := admin.Metrics(ctx)
	if err != nil {
		return err
	}
	if after.RequestOK != before.RequestOK+1 || after.RequestActive != 0 || after.CPUs == 0 || len(after.LatencyHistogram) < 10 {
		return fmt.Errorf("%+v, then %+v", before, after)
	}
	return nil
}

func auditLog(ctx context.Context) error {
	stream, err := admin.AuditLog(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err = stranger.Status(ctx); !errors.Is(err, kes.ErrNotAllowed) {
		return fmt.Errorf("a stranger: %v", err)
	}
	for stream.Next() {
		event := stream.Event()
		if event.APIPath == "/v1/status" && event.StatusCode == 403 {
			if event.ClientIP == nil || event.ResponseTime == 0 || time.Since(event.Timestamp) > time.Minute {
				return fmt.Errorf("odd event: %+v", event)
			}
			return nil
		}
	}
	return fmt.Errorf("the stream ended: %v", stream.Close())
}

func errorLog(ctx context.Context) error {
	stream, err := admin.ErrorLog(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	if _, err = stranger.Status(ctx); !errors.Is(err, kes.ErrNotAllowed) {
		return fmt.Errorf("a stranger: %v", err)
	}
	if !stream.Next() || stream.Message() == "" {
		return fmt.Errorf("no event: %v", stream.Close())
	}
	return nil
}

func adminIdentity() kes.Identity { return apiIdentity(env("KES_TEST_ADMIN_KEY")) }
