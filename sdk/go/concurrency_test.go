package keyvault_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
	"github.com/keyvault-grpc/keyvault/sdk/go/x/kvtest"
)

// TestAClientIsForManyGoroutines is most of what `go test -race` has to see: one client, one cache, and their closing.
func TestAClientIsForManyGoroutines(t *testing.T) {
	client := kvtest.NewServer(t).Client(t, keyvault.WithRemembered(4))
	key, err := client.GenerateKey(t.Context(), "prod/")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]*keyvault.DataKey{"prod/shared": key}
	if _, err := client.Create(t.Context(), "prod/shared", []byte("one"), key); err != nil {
		t.Fatal(err)
	}
	cache, err := client.NewCache(t.Context(), keys, keyvault.RefreshEvery(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			name := fmt.Sprint("prod/", i)
			_, err := client.Create(t.Context(), name, []byte("one"), key)
			for range 5 {
				if err == nil {
					_, err = client.Update(t.Context(), name, []byte("two"), key)
				}
				if err == nil {
					_, err = client.Update(t.Context(), "prod/shared", []byte(name), key)
				}
				if err == nil {
					_, err = client.ReadMany(t.Context(), map[string]*keyvault.DataKey{name: key, "prod/shared": key})
				}
				if err == nil {
					_, err = cache.Get("prod/shared")
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if record, err := client.Read(t.Context(), "prod/shared", key); err != nil || record.Revision != 41 {
		t.Error(record, err)
	}
	all.Go(func() { _ = cache.Close() })
	all.Go(func() { _ = client.Close() })
	all.Wait()
}
