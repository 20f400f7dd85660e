package upstream

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheTableTellsWhatFollowsFromStates(t *testing.T) {
	at := time.Now()
	drain := State{State: Drain, At: at}
	maint := State{State: Maint, At: at}
	evict := State{State: Evict, At: at}
	again := State{State: Evict, At: at.Add(1)}
	type states = map[string]State
	none := states{}
	for name, test := range map[string]struct {
		was, is      states
		number       uint64
		evict, ready []string
	}{
		"nothing":                  {none, none, 2, nil, nil},
		"drained":                  {none, states{"a:1": drain}, 2, nil, nil},
		"evicted":                  {none, states{"a:1": evict}, 2, []string{"a:1"}, nil},
		"evicted, as before":       {states{"a:1": evict}, states{"a:1": evict}, 2, nil, nil},
		"evicted once more":        {states{"a:1": evict}, states{"a:1": again}, 2, []string{"a:1"}, nil},
		"drained, then evicted":    {states{"a:1": drain}, states{"a:1": evict}, 2, []string{"a:1"}, nil},
		"evicted, then drained":    {states{"a:1": evict}, states{"a:1": drain}, 2, nil, nil},
		"closed":                   {none, states{"a:1": maint}, 2, nil, nil},
		"closed, then evicted":     {states{"a:1": maint}, states{"a:1": evict}, 2, []string{"a:1"}, nil},
		"closed, then drained":     {states{"a:1": maint}, states{"a:1": drain}, 2, nil, nil},
		"closed, then ready":       {states{"a:1": maint}, none, 2, nil, []string{"a:1"}},
		"ready":                    {states{"a:1": evict}, none, 2, nil, []string{"a:1"}},
		"one ready, one evicted":   {states{"a:1": drain}, states{"b:1": evict}, 2, []string{"b:1"}, []string{"a:1"}},
		"older than what is known": {states{"a:1": drain}, states{"b:1": evict}, 1, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable(nil)
			table.SetStates(1, test.was)
			evict, ready := table.SetStates(test.number, test.is)
			if !slices.Equal(evict, test.evict) || !slices.Equal(ready, test.ready) {
				t.Errorf("evict %q, ready %q; want %q, %q", evict, ready, test.evict, test.ready)
			}
			want := test.is
			if test.number == 1 {
				want = test.was
			}
			for _, address := range []string{"a:1", "b:1"} {
				h := table.acquireLocked(address)
				is := want[address].State
				if h.closed != (is == Maint || is == Evict) || h.draining != (is == Drain) || !table.StateOf(address).Equal(want[address]) {
					t.Errorf("%s is closed: %t, draining: %t, and %v; want %v", address, h.closed, h.draining, table.StateOf(address), want[address])
				}
			}
		})
	}
}

func TestWhomStatesKeepAway(t *testing.T) {
	for state, want := range map[string]struct{ newcomers, others bool }{
		Ready: {true, true}, Drain: {false, true}, Maint: {false, false}, Evict: {false, false},
		"of a version to come": {true, true},
	} {
		t.Run(state, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				s := w.load(asItIs, "a:1")
				w.operate(state, "a:1")
				e := s.Fixed[0]
				if e.isUsable() != want.newcomers || e.isOpen() != want.others {
					t.Errorf("open to newcomers: %t, to others: %t; want %+v", e.isUsable(), e.isOpen(), want)
				}
				if got := s.chooses() != ""; got != want.newcomers {
					t.Errorf("a newcomer gets in: %t", got)
				}
				if got := s.Occupancies()[0].Closed; got == want.newcomers {
					t.Errorf("takes no part in rebalancing: %t", got)
				}
			})
		})
	}
}

func TestExpandedAddressesAreInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const address = "10.0.0.1:9000"
		table := NewTable(nil)
		table.SetStates(1, map[string]State{address: {State: Drain}})
		if table.Uses(address) {
			t.Error("what nobody has is in use")
		}
		for range 2 {
			table.release(table.acquire(address, "")) // a handshake that is refused
			time.Sleep(NamedInterval - time.Second)
			if !table.Uses(address) {
				t.Error("what a handshake has had lately is not in use")
			}
		}
		time.Sleep(time.Second)
		if table.Uses(address) {
			t.Error("what a handshake had an hour ago is in use")
		}
		table.SetStates(2, nil)
		if len(table.asked) > 0 {
			t.Errorf("%v is still remembered", table.asked)
		}
	})
}

func TestAnAddressThatGetsNoTunnelsTellsOnceThatItIsEmpty(t *testing.T) {
	for _, state := range []string{Drain, Maint} {
		t.Run(state, func(t *testing.T) { tellsThatItIsEmpty(t, state) })
	}
}

func tellsThatItIsEmpty(t *testing.T, state string) {
	t.Helper()
	const address = "a:1"
	var told []string
	table := NewTable(func(c Change) {
		if c.Kind == AddressEmpty {
			told = append(told, c.Address)
		}
	})
	expect := func(when string, want int) {
		t.Helper()
		if len(told) != want {
			t.Errorf("%s: told %q, want %d times", when, told, want)
		}
		told = nil
	}
	p := NewPool(table)
	p.AddFixed(&Server{Weight: 1}, Address{HostPort: address})
	occupy := func() *Host {
		c, _ := p.Candidates(nil)
		defer c.Close()
		return c.Reserve(p.Fixed[0]).Host
	}
	say := func(number uint64, state string) {
		table.SetStates(number, map[string]State{address: {State: state, At: time.Now()}})
	}
	table.TunnelEnded(occupy())
	expect("it still gets tunnels", 0)
	first, second := occupy(), occupy()
	say(1, state)
	if table.TakeEmpty(address) {
		t.Error("it is empty with two tunnels")
	}
	table.TunnelEnded(first)
	expect("one is left", 0)
	table.TunnelEnded(second)
	expect("the last one has ended", 1)
	if table.TakeEmpty(address) {
		t.Error("it is told twice")
	}
	say(2, state)
	if !table.TakeEmpty(address) || table.TakeEmpty(address) || !table.TakeEmpty("nobody:1") {
		t.Error("what is said again is not told again, once")
	}
	table.SetStates(3, nil)
	if table.TakeEmpty(address) {
		t.Error("it is ready, and told to be empty")
	}
	held := occupy()
	p.Release()
	expect("it is removed, with a tunnel", 0)
	table.TunnelEnded(held)
	expect("it is removed", 1)
}
