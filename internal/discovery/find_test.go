package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// finds does what a handshake for room c does. It looks up sources that depend on the
// request in this way, by their index.
func finds(t *testing.T, all Sources, p *upstream.Pool, lookups ...Lookup) (addresses []string, problems string) {
	t.Helper()
	c, err := p.Candidates(func(dial string) (upstream.Address, error) {
		return upstream.Address{HostPort: strings.ReplaceAll(dial, "{room}", "c")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	problems = strings.Join(all.Find(t.Context(), c, func(i int) Lookup { return lookups[i] }), "; ")
	for _, e := range c.Endpoints() {
		addresses = append(addresses, e.Host.Address)
	}
	return addresses, problems
}

func TestHandshakesWaitForTheFirstAnswer(t *testing.T) {
	noHost := fails(errors.New("no such host"))
	for name, test := range map[string]struct {
		does    Lookup
		others  []string // that the pool has by itself
		found   []string
		within  time.Duration
		problem string
	}{
		"an answer":               {gives(hostA), nil, []string{hostA}, 0, ""},
		"an answer after a while": {takes(time.Second, gives(hostA)), nil, []string{hostA}, time.Second, ""},
		"none":                    {takes(time.Hour, gives(hostA)), nil, nil, firstAnswerTimeout, "source scripted: no answer yet"},
		"an error":                {noHost, nil, nil, firstAnswerTimeout, "source scripted: no such host"},
		"an error, but there is another upstream": {
			takes(time.Second, noHost), []string{hostB}, []string{hostB}, time.Second, "source scripted: no such host",
		},
		"none, but there is another upstream": {
			takes(time.Hour, gives(hostA)), []string{hostB}, []string{hostB}, firstAnswerTimeout, "source scripted: no answer yet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inRig(t, func(t *testing.T, r *rig) {
				p := r.pool(test.others...)
				all, _ := r.addTo(p, test.does)
				all.Start()
				began := time.Now()
				found, problem := finds(t, all, p)
				if got := time.Since(began); got != test.within {
					t.Errorf("it took %v, want %v", got, test.within)
				}
				if !slices.Equal(found, test.found) || problem != test.problem {
					t.Errorf("found %v, problem %q; want %v, %q", found, problem, test.found, test.problem)
				}
			})
		})
	}
}

func TestListedAddressIsNotFoundAgain(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		p := r.pool(hostA, hostB)
		p.AddTemplate(&upstream.Server{Weight: 1}, "{room}.test:80")
		all, _ := r.addTo(p, nil, nil)
		got, _ := finds(t, all, p, gives(hostA, hostB, hostC, "d.test:80"), gives("d.test:80", "e.test:80"))
		if want := []string{hostA, hostB, hostC, "d.test:80", "e.test:80"}; !slices.Equal(got, want) {
			t.Errorf("the upstreams are %v, want %v", got, want)
		}
	})
}

func TestCallInAHandshakeIsLimited(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		p := r.pool()
		all, _ := r.addTo(p, nil, nil)
		released := make(chan struct{})
		hanging := hangs(released, gives(hostA))
		began := time.Now()
		_, problem := finds(t, all, p, hanging, hanging)
		if got, want := time.Since(began), askTimeout; got != want {
			t.Errorf("it took %v for two calls, want %v", got, want)
		}
		if want := "source scripted: no answer within 2s; source scripted: no answer within 2s"; problem != want {
			t.Errorf("the problem is %q, want %q", problem, want)
		}
		synctest.Wait()
		for _, s := range all {
			if got := s.callee.Lost(); got != 1 {
				t.Errorf("%d calls are lost, want 1", got)
			}
		}
		if _, got := r.set.Held(); got != 0 {
			t.Errorf("%d calls in the background are lost", got)
		}
		close(released)
		synctest.Wait()
		for _, s := range all {
			if got := s.callee.Lost(); got != 0 {
				t.Errorf("%d calls are lost, want none", got)
			}
		}
	})
}

func TestCallsThatAreNeverAnsweredHarmNoOtherSource(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		p, other := r.pool(), r.pool()
		all, _ := r.addTo(p, nil)
		neighbour, _ := r.addTo(other, nil)
		released := make(chan struct{})
		var handshakes sync.WaitGroup
		for range maxLost {
			handshakes.Go(func() { finds(t, all, p, hangs(released, gives(hostA))) })
		}
		handshakes.Wait()
		synctest.Wait() // all are counted as lost
		if _, problem := finds(t, all, p, gives(hostA)); !strings.Contains(problem, "100 calls of upstream sources") {
			t.Errorf("the problem is %q", problem)
		}
		if got, problem := finds(t, neighbour, other, gives(hostA)); !slices.Equal(got, []string{hostA}) {
			t.Errorf("another source has found %v: %v", got, problem)
		}
		close(released)
		synctest.Wait()
	})
}

func TestUnusableIsToldNowAndThenInHandshakes(t *testing.T) {
	inRig(t, func(t *testing.T, r *rig) {
		all, p := r.add(nil)
		half := func(context.Context) ([]*upstream.Endpoint, []string, error) {
			return endpoints(hostA), []string{"nonsense"}, nil
		}
		for range 3 {
			finds(t, all, p, half)
		}
		r.expectTold(t, "unusable: [nonsense]")
		time.Sleep(warnInterval)
		finds(t, all, p, half)
		r.expectTold(t, "unusable: [nonsense]")
	})
}

func TestPlacesOfARoomStay(t *testing.T) {
	all, _ := newRig().add(nil)
	s := all[0]
	first, other := s.serverOf(hostA), s.serverOf(hostB)
	if again := s.serverOf(hostA); again != first || first == other {
		t.Error("an address has another place in each handshake, or two share one")
	}
	if first.Dial != hostA {
		t.Errorf("policies see %s", first.Dial)
	}
	for i := range 2 * maxServers {
		s.serverOf(fmt.Sprint("host:", i))
	}
	if got := len(s.servers.m); got > maxServers {
		t.Errorf("%d places are kept, want %d at most", got, maxServers)
	}
}
