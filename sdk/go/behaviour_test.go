package keyvault_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	keyvault "github.com/keyvault-grpc/keyvault/sdk/go"
)

// The behaviour suite: cases in testdata/behaviour, the same in every language, and a player of them in Python, which
// KeyVault's repository has. KEYVAULT_PLAYER is the command that starts the player, if it is another one.

type behaviour struct {
	Name        string
	Client      steps
	Calls       map[string]bounds
	Sealed      *[]int64
	Connections *[2]int
	// What the player alone reads.
	About, Record, Listen string
	Revision              int
	Server                map[string]any
	TLS                   map[string]string
	Token, Program        bool
}

type asked struct {
	Do          string
	Timeout     *float64
	OwnDeadline *bool `json:"own_deadline"`
	Revision    int64
	Interrupt   float64
	Name        *string
	Key         string
	Size        int
	Expect      struct {
		Outcome, Error, Reason, Data string
		Revision                     int64
		Seconds                      *[2]float64
	}
}

// steps are one object or a list of them.
type steps []asked

func (s *steps) UnmarshalJSON(content []byte) error {
	if content[0] == '[' {
		return strictly(content, (*[]asked)(s))
	}
	*s = make(steps, 1)
	return strictly(content, &(*s)[0])
}

// bounds are a number, or the least and the most.
type bounds [2]int

func (b *bounds) UnmarshalJSON(content []byte) error {
	if content[0] == '[' {
		return json.Unmarshal(content, (*[2]int)(b))
	}
	err := json.Unmarshal(content, &b[0])
	b[1] = b[0]
	return err
}

// strictly decodes what has no other fields: a word that is not understood would be half a case.
func strictly(content []byte, into any) error {
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

func readBehaviours(t *testing.T) []behaviour {
	t.Helper()
	paths, err := filepath.Glob("testdata/behaviour/*.json")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	var all []behaviour
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			About string
			Cases []behaviour
		}
		if err := strictly(content, &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, file.Cases...)
	}
	return all
}

// player is the process that plays the servers of all cases.
type player struct {
	mu      sync.Mutex
	ask     io.Writer
	answers *bufio.Reader
	played  map[string]announced
}

type announced struct {
	Case, Address string
	KeyID         string          `json:"key_id"`
	Key           json.RawMessage `json:"key"`
	NewKey        json.RawMessage `json:"new_key"`
	TLS           *struct {
		CA, Certificate string
		PrivateKey      string `json:"private_key"`
	}
	TokenFile string `json:"token_file"`
	Ready     int
}

type report struct {
	Calls       map[string]int
	Sealed      []int64
	Connections int
}

func startPlayer(t *testing.T) *player {
	t.Helper()
	command := strings.Fields(os.Getenv("KEYVAULT_PLAYER"))
	const repository = "../.."
	if len(command) == 0 {
		python, err := filepath.Abs(repository + "/.venv/bin/python")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(python); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip("no player: KEYVAULT_PLAYER is not set, and this is not KeyVault's repository after `python3 dev.py setup`")
		}
		command = []string{python, "-m", "tests.behaviour.server"}
	}
	process := exec.Command(command[0], command[1:]...)
	process.Stderr = os.Stderr
	if os.Getenv("KEYVAULT_PLAYER") == "" {
		process.Dir = repository
	}
	ask, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ask.Close()
		if err := process.Wait(); err != nil {
			t.Error(err)
		}
	})
	p := &player{ask: ask, answers: bufio.NewReader(answers), played: map[string]announced{}}
	for {
		var line announced
		p.read(t, &line)
		if line.Case == "" {
			return p
		}
		p.played[line.Case] = line
	}
}

func (p *player) read(t *testing.T, into any) {
	t.Helper()
	line, err := p.answers.ReadString('\n')
	if err == nil {
		err = json.Unmarshal([]byte(line), into)
	}
	if err != nil {
		t.Fatalf("the player ended, or says what is not expected: %v", err)
	}
}

func (p *player) report(t *testing.T, name string) report {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := fmt.Fprintln(p.ask, name); err != nil {
		t.Fatal(err)
	}
	var found report
	p.read(t, &found)
	return found
}

func TestBehaviour(t *testing.T) {
	all := readBehaviours(t)
	playing := startPlayer(t)
	for _, one := range all {
		played, ok := playing.played[one.Name]
		if !ok {
			t.Errorf("the player has another suite: no case %s", one.Name)
			continue
		}
		t.Run(one.Name, func(t *testing.T) {
			t.Parallel()
			client := clientOf(t, played, one)
			for _, step := range one.Client {
				step.run(t, client, played)
			}
			one.check(t, playing.report(t, one.Name))
		})
	}
}

func clientOf(t *testing.T, played announced, one behaviour) *keyvault.Client {
	t.Helper()
	options := []keyvault.Option{keyvault.WithTimeout(one.Client[0].timeout())}
	if played.TLS != nil {
		options = append(options, keyvault.WithTLS(keyvault.TLS{
			CA: played.TLS.CA, Certificate: played.TLS.Certificate, PrivateKey: played.TLS.PrivateKey,
		}))
	}
	if played.TokenFile != "" {
		options = append(options, keyvault.WithTokenFile(played.TokenFile))
	}
	client, err := keyvault.New(played.Address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (a asked) timeout() time.Duration {
	if a.Timeout == nil {
		return time.Minute
	}
	return time.Duration(*a.Timeout * float64(time.Second))
}

func (a asked) run(t *testing.T, client *keyvault.Client, played announced) {
	t.Helper()
	ctx := t.Context()
	if a.OwnDeadline == nil || *a.OwnDeadline {
		bounded, cancel := context.WithTimeout(ctx, a.timeout())
		defer cancel()
		ctx = bounded
	}
	if a.Interrupt > 0 {
		interrupted, cancel := context.WithCancel(ctx)
		defer time.AfterFunc(time.Duration(a.Interrupt*float64(time.Second)), cancel).Stop()
		ctx = interrupted
	}
	begin := time.Now()
	revision, data, err := a.do(ctx, client, played)
	took := time.Since(begin).Seconds()
	want := a.Expect
	if want.Outcome == "either" {
		return
	}
	if got := outcomeOf(err); got != want.Outcome && (want.Outcome != "interrupted" || got != "unknown") {
		t.Errorf("%s: %s instead of %s: %v", a.Do, got, want.Outcome, err)
	}
	if kind, ok := kinds[want.Error]; want.Error != "" && (!ok || !errors.Is(err, kind)) {
		t.Errorf("%s: no %s: %v", a.Do, want.Error, err)
	}
	if want.Outcome == "interrupted" && !errors.Is(err, context.Canceled) {
		t.Errorf("%s: not the context's error: %v", a.Do, err)
	}
	if reason := reasonOf(err); want.Reason != "" && reason != want.Reason {
		t.Errorf("%s: reason %s instead of %s", a.Do, reason, want.Reason)
	}
	if want.Revision != 0 && revision != want.Revision || want.Data != "" && data != want.Data {
		t.Errorf("%s: %q at revision %d, want %q at %d", a.Do, data, revision, want.Data, want.Revision)
	}
	if want.Seconds != nil && (took < want.Seconds[0] || took > want.Seconds[1]) {
		t.Errorf("%s: took %.1f s instead of %v", a.Do, took, *want.Seconds)
	}
}

var kinds = map[string]error{
	"AlreadyExists": keyvault.ErrAlreadyExists, "Busy": keyvault.ErrBusy, "Conflict": keyvault.ErrConflict,
	"Denied": keyvault.ErrDenied, "InvalidRequest": keyvault.ErrInvalidRequest,
	"MasterKeyUnusable": keyvault.ErrMasterKeyUnusable, "NotAuthorized": keyvault.ErrNotAuthorized,
	"NotFound": keyvault.ErrNotFound, "OutcomeUnknown": keyvault.ErrOutcomeUnknown,
	"RecordDamaged": keyvault.ErrRecordDamaged, "RevisionNotFound": keyvault.ErrRevisionNotFound,
	"RolledBack": keyvault.ErrRolledBack, "ServerFailure": keyvault.ErrServerFailure, "Unavailable": keyvault.ErrUnavailable,
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "done"
	case errors.Is(err, keyvault.ErrOutcomeUnknown):
		return "unknown"
	}
	return "failed"
}

func reasonOf(err error) string {
	if about, ok := errors.AsType[*keyvault.Error](err); ok {
		return about.Reason
	}
	return ""
}

func (a asked) do(ctx context.Context, client *keyvault.Client, played announced) (int64, string, error) {
	key, err := keyvault.ParseDataKey(played.Key)
	if err != nil {
		return 0, "", err
	}
	newKey, err := keyvault.ParseDataKey(played.NewKey)
	if err != nil {
		return 0, "", err
	}
	name, with := played.KeyID, key
	if a.Name != nil {
		name = *a.Name
	}
	if a.Key == "new_key" {
		with = newKey
	}
	switch a.Do {
	case "read":
		var earlier []keyvault.ReadOption
		if a.Revision != 0 {
			earlier = append(earlier, keyvault.AtRevision(a.Revision))
		}
		return shown(client.Read(ctx, name, with, earlier...))
	case "read_if_changed":
		record, err := client.ReadIfChanged(ctx, name, with, a.Revision)
		if record == nil {
			return 0, "", err
		}
		return shown(record, err)
	case "read_many":
		results, err := client.ReadMany(ctx, map[string]*keyvault.DataKey{name: with})
		if err != nil {
			return 0, "", err
		}
		return shown(results[name].Record, results[name].Err)
	case "generate_key":
		_, err = client.GenerateKey(ctx, name)
		return 0, "", err
	case "rewrap_key":
		_, err = client.RewrapKey(ctx, with)
		return 0, "", err
	case "unwrap_key":
		_, err = client.UnwrapKey(ctx, with)
		return 0, "", err
	case "renew_token":
		return 0, "", renew(played.TokenFile)
	}
	done, err := a.change(ctx, client, name, with, newKey)
	return done.Revision, "", err
}

func (a asked) change(
	ctx context.Context, client *keyvault.Client, name string, key, newKey *keyvault.DataKey,
) (keyvault.Written, error) {
	data := []byte("ours")
	if a.Size != 0 {
		data = bytes.Repeat([]byte("x"), a.Size)
	}
	var named []keyvault.WriteOption
	if a.Revision != 0 {
		named = append(named, keyvault.IfRevision(a.Revision))
	}
	switch a.Do {
	case "create":
		return client.Create(ctx, name, data, key, named...)
	case "update":
		return client.Update(ctx, name, data, key, named...)
	case "delete":
		return client.Delete(ctx, name, key, named...)
	case "restore":
		return client.Restore(ctx, name, key, a.Revision)
	case "rotate":
		return client.RotateKey(ctx, name, key, newKey, named...)
	}
	return keyvault.Written{}, fmt.Errorf("unknown verb %q", a.Do)
}

func shown(record *keyvault.Record, err error) (int64, string, error) {
	if err != nil {
		return 0, "", err
	}
	return record.Revision, string(record.Plaintext), nil
}

// renew replaces the token by one that settled some time ago.
func renew(path string) error {
	draft := path + ".new"
	if err := os.WriteFile(draft, []byte("renewed\n"), 0o600); err != nil {
		return err
	}
	before := time.Now().Add(-time.Minute)
	if err := os.Chtimes(draft, before, before); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

// check compares what the server got.
func (b behaviour) check(t *testing.T, got report) {
	t.Helper()
	for method := range got.Calls {
		if _, ok := b.Calls[method]; !ok && b.Calls != nil {
			t.Errorf("an unexpected %s", method)
		}
	}
	for method, want := range b.Calls {
		if n := got.Calls[method]; n < want[0] || n > want[1] {
			t.Errorf("%d calls of %s instead of %v", n, method, want)
		}
	}
	if b.Sealed != nil && !slices.Equal(got.Sealed, *b.Sealed) {
		t.Errorf("sealed for %v instead of %v", got.Sealed, *b.Sealed)
	}
	if b.Connections != nil && (got.Connections < b.Connections[0] || got.Connections > b.Connections[1]) {
		t.Errorf("%d connections instead of %v", got.Connections, *b.Connections)
	}
}
