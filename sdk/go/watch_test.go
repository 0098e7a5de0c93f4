package keyvault

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAChangedFileCountsWhenItHasSettled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, test := range []struct {
		age  time.Duration
		want bool
	}{{0, false}, {time.Minute, true}, {-time.Hour, true}} { // the last is of a clock that is ahead
		if err := os.WriteFile(path, []byte("t"), 0o600); err != nil {
			t.Fatal(err)
		}
		modified := time.Now().Add(-test.age)
		if err := os.Chtimes(path, modified, modified); err != nil {
			t.Fatal(err)
		}
		if _, found := changed(path, nil); found != test.want {
			t.Errorf("modified %v ago: %v, want %v", test.age, found, test.want)
		}
	}
}
