package cluster

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func unused(string) bool { return false }
func used(string) bool   { return true }

func TestMergedTakesTheNewestWord(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration, state string) upstream.State {
		return upstream.State{State: state, At: now.Add(-d)}
	}
	named := func(s upstream.State, d time.Duration) upstream.State {
		s.Named = now.Add(-d)
		return s
	}
	one := func(s upstream.State) words { return words{"a:1": s} }
	none := words{}
	for name, test := range map[string]struct {
		known, stored words
		uses          func(string) bool
		want          words
	}{
		"nothing":                  {none, none, used, none},
		"what is new":              {one(ago(time.Minute, upstream.Drain)), none, unused, one(ago(time.Minute, upstream.Drain))},
		"what others have set":     {none, one(ago(time.Minute, upstream.Drain)), unused, one(ago(time.Minute, upstream.Drain))},
		"newer here":               {one(ago(1, upstream.Ready)), one(ago(2, upstream.Drain)), unused, one(ago(1, upstream.Ready))},
		"newer there":              {one(ago(2, upstream.Drain)), one(ago(1, upstream.Ready)), unused, one(ago(1, upstream.Ready))},
		"as old: what is stored":   {one(ago(1, upstream.Drain)), one(ago(1, upstream.Evict)), unused, one(ago(1, upstream.Evict))},
		"its meaning was lost":     {one(ago(1, upstream.Drain)), one(ago(1, upstream.Maint)), unused, one(ago(1, upstream.Drain))},
		"its meaning is stored":    {one(ago(1, upstream.Maint)), one(ago(1, upstream.Drain)), unused, one(ago(1, upstream.Drain))},
		"a newer maint":            {one(ago(2, upstream.Drain)), one(ago(1, upstream.Maint)), unused, one(ago(1, upstream.Maint))},
		"the later use, here":      {one(named(ago(2, upstream.Drain), 0)), one(named(ago(1, upstream.Drain), 1)), unused, one(named(ago(1, upstream.Drain), 0))},
		"the later use, there":     {one(named(ago(1, upstream.Drain), 1)), one(named(ago(2, upstream.Drain), 0)), unused, one(named(ago(1, upstream.Drain), 0))},
		"lost":                     {one(ago(goneAfter, upstream.Drain)), none, unused, one(ago(goneAfter, upstream.Drain))},
		"dropped elsewhere":        {one(ago(goneAfter+1, upstream.Drain)), none, unused, none},
		"lost long ago, but used":  {one(ago(goneAfter+1, upstream.Drain)), none, used, one(named(ago(goneAfter+1, upstream.Drain), 0))},
		"used again":               {none, one(ago(dropAfter+1, upstream.Drain)), used, one(named(ago(dropAfter+1, upstream.Drain), 0))},
		"used lately":              {none, one(named(ago(dropAfter, upstream.Drain), upstream.NamedInterval)), used, one(named(ago(dropAfter, upstream.Drain), upstream.NamedInterval))},
		"unused for not too long":  {none, one(ago(dropAfter, upstream.Drain)), unused, one(ago(dropAfter, upstream.Drain))},
		"unused for too long":      {none, one(ago(dropAfter+1, upstream.Drain)), unused, none},
		"unused, known for longer": {one(ago(2*dropAfter, upstream.Drain)), one(named(ago(2*dropAfter, upstream.Drain), dropAfter)), unused, one(named(ago(2*dropAfter, upstream.Drain), dropAfter))},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.known.merged(test.stored, now, test.uses); !got.equal(test.want) {
				t.Errorf("%v and stored %v make %v, want %v", test.known, test.stored, got, test.want)
			}
		})
	}
}

// TestInstancesAgreeInWhicheverOrderTheyMeet has instances with words of their
// own exchange them through a document until nothing changes.
func TestInstancesAgreeInWhicheverOrderTheyMeet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	for range 200 {
		newest := make(words)
		instances := make([]words, 4)
		for i := range instances {
			instances[i] = make(words)
			for _, address := range []string{"a:1", "b:1", "c:1"} {
				state := []string{upstream.Ready, upstream.Drain, upstream.Maint, upstream.Evict}[random.IntN(4)]
				s := upstream.State{State: state, At: now.Add(-time.Duration(random.IntN(1e9)))}
				instances[i][address] = s
				if s.At.After(newest[address].At) {
					newest[address] = s
				}
			}
		}
		document := make(words)
		for round := range 4 {
			for _, i := range random.Perm(len(instances)) {
				if round < 2 && random.IntN(5) == 0 {
					clear(document) // somebody deletes it
				}
				document = instances[i].merged(document, now, unused)
				instances[i] = maps.Clone(document)
			}
		}
		for _, states := range instances {
			if !states.equal(newest) {
				t.Fatalf("an instance knows %v, want %v", states, newest)
			}
		}
	}
}

func TestStatesAreStoredAsTheyAre(t *testing.T) {
	now := time.Now()
	states := words{"a:1": {
		State: upstream.Evict, By: "somebody \"else\"", At: now.UTC().Round(0), Expires: now.Add(time.Hour), Period: 1.5, Named: now,
	}, "b:1": {State: upstream.Ready, At: now}, "c:1": {State: upstream.Drain, At: now}, "d:1": {State: upstream.Maint, At: now}}
	stored := make(map[string]storedState)
	for address, s := range states {
		stored[address] = storedForm(s)
	}
	value, err := json.Marshal(documentContent{Upstreams: stored})
	if err != nil {
		t.Fatal(err)
	}
	var read documentContent
	if err := json.Unmarshal(value, &read); err != nil || !read.words().equal(states) {
		t.Errorf("%s is read as %v (%v), want %v", value, read, err, states)
	}
}

func TestIsLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:80":            true,
		"127.8.9.10:80":           true,
		"[::1]:80":                true,
		"[::ffff:127.0.0.1]:80":   true,
		"localhost:80":            true,
		"LocalHost.:80":           true,
		"chat.localhost:80":       true,
		":80":                     true,
		"0.0.0.0:80":              true,
		"[::]:80":                 true,
		"169.254.1.1:80":          true,
		"[fe80::1]:80":            true,
		"[fe80::1%eth0]:80":       true,
		"unix//run/app.sock":      true,
		"unix/@abstract":          true,
		"tcp4/127.0.0.1:80":       true,
		"tcp6/[::1]:80":           true,
		"10.0.0.1:80":             false,
		"192.168.1.1:80":          false,
		"[fd00::1]:80":            false,
		"tcp4/10.0.0.1:80":        false,
		"backend:80":              false,
		"localhost.example.com:1": false,
		"notlocalhost:80":         false,
	} {
		if got := IsLocal(address); got != want {
			t.Errorf("%s is local: %t, want %t", address, got, want)
		}
	}
}

func TestTimesFarAheadAreIgnoredWhenRead(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	never := time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	drained := func(at, expires, named time.Time) upstream.State {
		return upstream.State{State: upstream.Drain, At: at, Expires: expires, Named: named}
	}
	soon, late := now.Add(maxAhead), now.Add(upstream.LongestExpiry+maxAhead)
	for name, test := range map[string]struct {
		stored upstream.State
		want   words
	}{
		"all is well":            {drained(now, now.Add(time.Hour), now), words{"a:1": drained(now, now.Add(time.Hour), now)}},
		"a clock is ahead":       {drained(soon, late, soon), words{"a:1": drained(soon, late, soon)}},
		"set too far ahead":      {drained(soon.Add(1), time.Time{}, time.Time{}), words{}},
		"set at the end of time": {drained(never, never, never), words{}},
		"expires too far ahead":  {drained(now, late.Add(1), now), words{"a:1": drained(now, time.Time{}, now)}},
		"used too far ahead":     {drained(now, time.Time{}, soon.Add(1)), words{"a:1": drained(now, time.Time{}, time.Time{})}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ahead := words{"a:1": test.stored}.plausible(now)
			if !got.equal(test.want) {
				t.Errorf("%v is read as %v, want %v", test.stored, got, test.want)
			}
			if changed := !test.want.equal(words{"a:1": test.stored}); changed != (len(ahead) == 1) {
				t.Errorf("it is told of %q", ahead)
			}
		})
	}
}
