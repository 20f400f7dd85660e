package websocketproxy

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"testing"
	"time"
)

func unused(string) bool { return false }
func used(string) bool   { return true }

func TestMergedTakesTheNewestWord(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration, state string) operatorState {
		return operatorState{State: state, At: now.Add(-d)}
	}
	named := func(s operatorState, d time.Duration) operatorState {
		s.Named = now.Add(-d)
		return s
	}
	one := func(s operatorState) operatorStates { return operatorStates{"a:1": s} }
	none := operatorStates{}
	for name, test := range map[string]struct {
		known, stored operatorStates
		uses          func(string) bool
		want          operatorStates
	}{
		"nothing":                  {none, none, used, none},
		"what is new":              {one(ago(time.Minute, stateDrain)), none, unused, one(ago(time.Minute, stateDrain))},
		"what others have set":     {none, one(ago(time.Minute, stateDrain)), unused, one(ago(time.Minute, stateDrain))},
		"newer here":               {one(ago(1, stateReady)), one(ago(2, stateDrain)), unused, one(ago(1, stateReady))},
		"newer there":              {one(ago(2, stateDrain)), one(ago(1, stateReady)), unused, one(ago(1, stateReady))},
		"as old: what is stored":   {one(ago(1, stateDrain)), one(ago(1, stateEvict)), unused, one(ago(1, stateEvict))},
		"the later use, here":      {one(named(ago(2, stateDrain), 0)), one(named(ago(1, stateDrain), 1)), unused, one(named(ago(1, stateDrain), 0))},
		"the later use, there":     {one(named(ago(1, stateDrain), 1)), one(named(ago(2, stateDrain), 0)), unused, one(named(ago(1, stateDrain), 0))},
		"lost":                     {one(ago(goneAfter, stateDrain)), none, unused, one(ago(goneAfter, stateDrain))},
		"dropped elsewhere":        {one(ago(goneAfter+1, stateDrain)), none, unused, none},
		"lost long ago, but used":  {one(ago(goneAfter+1, stateDrain)), none, used, one(named(ago(goneAfter+1, stateDrain), 0))},
		"used again":               {none, one(ago(dropAfter+1, stateDrain)), used, one(named(ago(dropAfter+1, stateDrain), 0))},
		"used lately":              {none, one(named(ago(dropAfter, stateDrain), namedInterval)), used, one(named(ago(dropAfter, stateDrain), namedInterval))},
		"unused for not too long":  {none, one(ago(dropAfter, stateDrain)), unused, one(ago(dropAfter, stateDrain))},
		"unused for too long":      {none, one(ago(dropAfter+1, stateDrain)), unused, none},
		"unused, known for longer": {one(ago(2*dropAfter, stateDrain)), one(named(ago(2*dropAfter, stateDrain), dropAfter)), unused, one(named(ago(2*dropAfter, stateDrain), dropAfter))},
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
		newest := make(operatorStates)
		instances := make([]operatorStates, 4)
		for i := range instances {
			instances[i] = make(operatorStates)
			for _, address := range []string{"a:1", "b:1", "c:1"} {
				state := []string{stateReady, stateDrain, stateEvict}[random.IntN(3)]
				s := operatorState{State: state, At: now.Add(-time.Duration(random.IntN(1e9)))}
				instances[i][address] = s
				if s.At.After(newest[address].At) {
					newest[address] = s
				}
			}
		}
		document := make(operatorStates)
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
	states := operatorStates{"a:1": {
		State: stateEvict, By: "somebody \"else\"", At: now.UTC().Round(0), Expires: now.Add(time.Hour), Period: 1.5, Named: now,
	}, "b:1": {State: stateReady, At: now}}
	value, err := json.Marshal(states)
	if err != nil {
		t.Fatal(err)
	}
	var read operatorStates
	if err := json.Unmarshal(value, &read); err != nil || !read.equal(states) {
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
		if got := isLocal(address); got != want {
			t.Errorf("%s is local: %t, want %t", address, got, want)
		}
	}
}

func TestTimesFarAheadAreIgnoredWhenRead(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	never := time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC)
	drained := func(at, expires, named time.Time) operatorState {
		return operatorState{State: stateDrain, At: at, Expires: expires, Named: named}
	}
	soon, late := now.Add(maxAhead), now.Add(longestExpiry+maxAhead)
	for name, test := range map[string]struct {
		stored operatorState
		want   operatorStates
	}{
		"all is well":            {drained(now, now.Add(time.Hour), now), operatorStates{"a:1": drained(now, now.Add(time.Hour), now)}},
		"a clock is ahead":       {drained(soon, late, soon), operatorStates{"a:1": drained(soon, late, soon)}},
		"set too far ahead":      {drained(soon.Add(1), time.Time{}, time.Time{}), operatorStates{}},
		"set at the end of time": {drained(never, never, never), operatorStates{}},
		"expires too far ahead":  {drained(now, late.Add(1), now), operatorStates{"a:1": drained(now, time.Time{}, now)}},
		"used too far ahead":     {drained(now, time.Time{}, soon.Add(1)), operatorStates{"a:1": drained(now, time.Time{}, time.Time{})}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ahead := operatorStates{"a:1": test.stored}.plausible(now)
			if !got.equal(test.want) {
				t.Errorf("%v is read as %v, want %v", test.stored, got, test.want)
			}
			if changed := !test.want.equal(operatorStates{"a:1": test.stored}); changed != (len(ahead) == 1) {
				t.Errorf("it is told of %q", ahead)
			}
		})
	}
}
