package cluster

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

func TestWhatCouldNotBeStoredIsStoredLater(t *testing.T) {
	for name, trouble := range map[string]func(context.Context, string) error{
		"nothing works":      down,
		"loading fails":      failing("Load"),
		"storing fails":      failing("Store"),
		"locking fails":      failing("Lock"),
		"everything hangs":   hangingPolitely,
		"storing hangs":      storingHangs,
		"the storage panics": func(context.Context, string) error { panic("a bug") },
		"it ends goroutines": func(context.Context, string) error {
			runtime.Goexit()
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newFakeStorage()
				a, b := runInstance(t, st), runInstance(t, st)
				st.be(trouble)
				a.sayUnstored(upstream.Drain, "", storageTimeout)
				time.Sleep(time.Hour)
				a.expect(upstream.Drain)
				b.expect(upstream.Ready)
				a.expectObserved(map[event]int{toldFails: 1, toldWorks: 0})

				st.be(nil)
				time.Sleep(pickUp + pickUp)
				st.expectUnlocked(t)
				b.expect(upstream.Drain)
				a.expectObserved(map[event]int{toldFails: 1, toldWorks: 1})
				a.say(backend, upstream.Ready)
			})
		})
	}
}

func TestTheNewestWordWinsWhenAStorageIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		st.be(down)
		a.sayUnstored(upstream.Evict, errStorageDown.Error(), storageTimeout)
		time.Sleep(time.Minute)
		b.sayUnstored(upstream.Ready, errStorageDown.Error(), storageTimeout)
		time.Sleep(time.Minute)
		st.be(nil)
		time.Sleep(pickUp + pickUp)
		a.expect(upstream.Ready)
		b.expect(upstream.Ready)
	})
}

// TestAStorageThatHangsStopsNothing has calls that never come back.
func TestAStorageThatHangsStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := newInstance(t)
		unload := a.run(st)
		trouble, end := hanging()
		st.be(trouble)
		a.sayUnstored(upstream.Drain, "has not answered within", storageTimeout)
		time.Sleep(time.Second)
		a.sayUnstored(upstream.Evict, "has not answered since", 0)
		a.sayUnstored(upstream.Drain, "has not answered since", 0)
		time.Sleep(time.Hour)
		if calls, _ := st.atATime(); calls != 1 {
			t.Errorf("%d calls hang, want 1", calls)
		}
		a.expectObserved(map[event]int{toldFails: 1})

		// A reload with another storage takes what was not stored with it.
		began := time.Now()
		other := newFakeStorage()
		a.run(other)
		unload()
		if took := time.Since(began); took > storageTimeout {
			t.Errorf("the reload took %v", took)
		}
		time.Sleep(pickUp)
		if got := other.states(t, sharedKey)[backend].State; got != upstream.Drain {
			t.Errorf("the new storage has %q, want drain", got)
		}
		a.say(backend, upstream.Ready)

		st.be(nil)
		end()
		time.Sleep(time.Hour)
		a.expect(upstream.Ready) // whatever the old storage says
		st.expectUnlocked(t)
	})
}

func TestAStorageThatHangsIsAskedAgainWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		trouble, end := hanging()
		st.be(trouble)
		a.sayUnstored(upstream.Drain, "has not answered", storageTimeout)
		time.Sleep(time.Hour)
		st.be(nil)
		end()
		time.Sleep(pickUp + pickUp)
		b.expect(upstream.Drain)
		a.expectObserved(map[event]int{toldFails: 1, toldWorks: 1})
		a.say(backend, upstream.Ready)
	})
}

// TestHungCallsAreFew reloads with a storage that hangs.
func TestHungCallsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := newInstance(t)
		trouble, end := hanging()
		defer end()
		st.be(trouble)
		for range 3 * maxCalls {
			unload := a.run(st)
			time.Sleep(time.Minute)
			began := time.Now()
			unload()
			if took := time.Since(began); took > 0 {
				t.Errorf("unloading took %v", took)
			}
		}
		if calls, _ := st.atATime(); calls != maxCalls {
			t.Errorf("%d calls hang, want %d", calls, maxCalls)
		}
	})
}

func TestASlowStorageWorks(t *testing.T) {
	for name, test := range map[string]struct {
		trouble        func(context.Context, string) error
		lines, another int // of who sets something, and of another instance
	}{
		"a bit":               {slow(500 * time.Millisecond), 0, 0},
		"too slow to write":   {slow(2 * time.Second), 1, 0}, // that is to load, lock, load and store
		"too slow every time": {slowToLoad, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newFakeStorage()
				a := runInstance(t, st)
				b := runInstance(t, st)
				st.be(test.trouble)
				_ = a.trySay(backend, upstream.State{State: upstream.Drain}) // it may take too long
				time.Sleep(time.Minute)
				b.expect(map[int]string{0: upstream.Drain, 1: upstream.Ready}[test.lines])
				a.expectObserved(map[event]int{toldFails: test.lines, toldWorks: 0})
				b.expectObserved(map[event]int{toldFails: test.another, toldWorks: 0})
				st.be(nil)
				time.Sleep(time.Minute)
				a.expect(upstream.Drain)
				b.expect(upstream.Drain)
				a.expectObserved(map[event]int{toldFails: test.lines, toldWorks: test.lines})
				st.expectUnlocked(t)
			})
		})
	}
}

func TestADeletedStorageIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		a.say(backend, upstream.Drain)
		a.say("127.0.0.1:9000", upstream.Drain)
		time.Sleep(time.Hour)
		before := len(st.keys())
		st.wipe()
		time.Sleep(pickUp)
		a.expect(upstream.Drain)
		b.expect(upstream.Drain)
		if got := len(st.keys()); got != before || before != 2 {
			t.Errorf("%d documents are there again, want %d, and 2", got, before)
		}
		a.expectObserved(map[event]int{toldFails: 0, toldChanged: 2})
		runInstance(t, st).expect(upstream.Drain)
	})
}

func TestADeletedLockIsNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a := runInstance(t, st)
		st.be(func(_ context.Context, call string) error {
			if call == "Unlock" {
				st.wipe()
			}
			return nil
		})
		a.say(backend, upstream.Drain)
		st.be(nil)
		time.Sleep(pickUp)
		if got := st.states(t, sharedKey)[backend].State; got != upstream.Drain {
			t.Errorf("%q is stored, want drain", got)
		}
		a.expectObserved(map[event]int{toldFails: 0})
	})
}

func TestWhatIsNotUnderstoodIsNotOverwritten(t *testing.T) {
	for document, why := range map[string]string{
		`{"version": 1, "upstr`:              "is damaged",
		`{"version": 2, "upstreams": "new"}`: "is damaged",
		`{"version": 2}`:                     "version 2",
		`{}`:                                 "version 0",
	} {
		synctest.Test(t, func(t *testing.T) {
			st := newFakeStorage()
			a := runInstance(t, st)
			st.put(sharedKey, document)
			a.sayUnstored(upstream.Drain, why, storageTimeout)
			if got := st.get(sharedKey); got != document {
				t.Errorf("%s has become %s", document, got)
			}
			a.expectObserved(map[event]int{toldFails: 1})
			st.wipe() // as the error says
			time.Sleep(pickUp)
			if got := st.states(t, sharedKey)[backend].State; got != upstream.Drain {
				t.Errorf("%q is stored, want drain", got)
			}
		})
	}
}

func TestALockThatIsNeverGivenBackStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		if err := st.Lock(t.Context(), sharedKey); err != nil {
			t.Fatal(err)
		}
		a.sayUnstored(upstream.Drain, "", storageTimeout)
		time.Sleep(time.Minute)
		a.expectObserved(map[event]int{toldFails: 1})
		if err := st.Unlock(t.Context(), sharedKey); err != nil {
			t.Fatal(err)
		}
		time.Sleep(pickUp + pickUp)
		b.expect(upstream.Drain)
	})
}

// TestStartWaitsForWhatIsStored has handshakes before and while the first
// storage is looked at.
func TestStartWaitsForWhatIsStored(t *testing.T) {
	for name, test := range map[string]struct {
		takes time.Duration
		want  string
	}{
		"which comes":          {patience / 2, upstream.Drain},
		"which comes too late": {10 * patience, upstream.Ready},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := newFakeStorage()
				runInstance(t, st).say(backend, upstream.Drain)
				st.be(func(context.Context, string) error {
					time.Sleep(test.takes / 2) // twice: both documents
					return nil
				})
				a := newInstance(t)
				handshaken := make(chan struct{})
				go func() {
					defer close(handshaken)
					a.Await(context.Background())
					a.expect(test.want)
				}()
				began := time.Now()
				a.run(st)
				a.expect(test.want)
				if took := time.Since(began); took > patience {
					t.Errorf("the start took %v", took)
				}
				<-handshaken
				a.Await(context.Background()) // not any more
				if took := time.Since(began); took > patience {
					t.Errorf("a handshake took %v", took)
				}
				time.Sleep(time.Minute)
				a.expect(upstream.Drain)
				st.be(nil)
				time.Sleep(time.Minute)
			})
		})
	}
}

// TestReloadsKeepStates has configurations come and go, one of them without success.
func TestReloadsKeepStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st, other := newFakeStorage(), newFakeStorage()
		a := newInstance(t)
		unload := a.run(st)
		a.say(backend, upstream.Drain)
		refused := a.run(other) // and something else of it fails
		refused()
		a.say(backend, upstream.Evict)
		if got := st.states(t, sharedKey)[backend].State; got != upstream.Evict {
			t.Errorf("%q is stored, want evict", got)
		}
		unload()
		if err := a.trySay(backend, upstream.State{State: upstream.Drain}); err == nil {
			t.Error("without a configuration, something is stored")
		}
		a.expect(upstream.Drain)
		a.run(st)
		time.Sleep(pickUp)
		if got := st.states(t, sharedKey)[backend].State; got != upstream.Drain {
			t.Errorf("%q is stored, want drain", got)
		}
	})
}

func TestTwoWhoSayDifferentThingsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		st.be(slow(100 * time.Millisecond))
		first := make(chan error, 1)
		go func() { first <- a.trySay(backend, upstream.State{State: upstream.Drain}) }()
		time.Sleep(50 * time.Millisecond)
		beside := make(chan error, 1)
		go func() { beside <- a.trySay("10.0.0.2:9000", upstream.State{State: upstream.Drain}) }()
		a.say(backend, upstream.Evict)
		if err := <-beside; err != nil {
			t.Errorf("setting another one: %v", err)
		}
		if err := <-first; err == nil {
			t.Error("who was first believes that drain is stored")
		}
		st.be(nil)
		time.Sleep(pickUp)
		b.expect(upstream.Evict)
		if got := b.stateOf("10.0.0.2:9000"); got != upstream.Drain {
			t.Errorf("what was set beside is %q, want drain", got)
		}
	})
}

// TestATimeFarAheadStopsNothing has a document with a state of the last
// millisecond that JSON has: a moment later there is none.
func TestATimeFarAheadStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		st.put(sharedKey, `{"version": 1, "upstreams": {
			"`+backend+`": {"state": "drain", "by": "eve", "at": "9999-12-31T23:59:59.9999Z"},
			"10.0.0.2:9000": {"state": "drain", "by": "bob", "at": "2000-01-01T00:00:00Z"}}}`)
		a, b := runInstance(t, st), runInstance(t, st)
		a.expect(upstream.Ready)
		time.Sleep(time.Minute)
		a.expectObserved(map[event]int{toldAhead: 1, toldFails: 0})

		a.say(backend, upstream.Drain)
		a.say("10.0.0.3:9000", upstream.Drain)
		time.Sleep(pickUp)
		b.expect(upstream.Drain)
		stored := st.states(t, sharedKey)
		if len(stored) != 3 || stored[backend].By != "test" || stored["10.0.0.2:9000"].By != "bob" {
			t.Errorf("stored is %v", stored)
		}
		a.say(backend, upstream.Ready)
		time.Sleep(pickUp)
		b.expect(upstream.Ready)
	})
}

// TestAClockThatIsPutBackStopsNothing has an instance that has set a state when
// its clock was years ahead.
func TestAClockThatIsPutBackStopsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newFakeStorage()
		a, b := runInstance(t, st), runInstance(t, st)
		a.mu.Lock()
		a.known[backend] = upstream.State{State: upstream.Drain, By: "test", At: time.Now().Add(10 * 365 * 24 * time.Hour)}
		a.mu.Unlock()
		time.Sleep(pickUp + pickUp)
		a.expect(upstream.Drain)
		b.expect(upstream.Drain)
		writes := st.count("Store")
		time.Sleep(time.Hour)
		if n := st.count("Store"); n > writes+1 { // which may say that the address is in use
			t.Errorf("%d writes in an hour in which nothing was set", n-writes)
		}
		b.say(backend, upstream.Ready)
		time.Sleep(pickUp)
		a.expect(upstream.Ready)
	})
}
