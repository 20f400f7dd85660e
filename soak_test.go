package websocketproxy

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// Tunnels come and go in all ways at random, over all kinds of connection, for
// a second, some if LONG is set, or as long as SOAK says, such as 10m.
func TestTunnelsComeAndGo(t *testing.T) {
	// The relay keeps this many ends of pipes for bulk transfers at most.
	const pipes = 4 * 32
	t.Run("first", openAndClose) // the pollers are there from then on
	sockets, others := openDescriptors(t, "socket"), openDescriptors(t, "pipe")
	t.Run("many", func(t *testing.T) {
		t.Cleanup(func() { expectNothingHeld(t) })
		lasts := soakTime(t)
		rounds := max(2, int(lasts/(5*time.Second)))
		s := newSoak(t, lasts/time.Duration(rounds))
		s.expectQuiet(t)
		var early uint64
		for i := range rounds {
			t.Run(fmt.Sprintf("round %d", i), func(t *testing.T) { s.run(t, uint64(i)) })
			s.expectQuiet(t)
			if i+1 == max(1, rounds/10) {
				early = liveHeap()
			}
		}
		expectNoGrowth(t, early, liveHeap())
		t.Logf("%d tunnels", s.ended)
	})
	eventually(t, "all sockets are closed", func() bool { return openDescriptors(t, "socket") <= sockets })
	eventually(t, "all pipes are closed", func() bool { return openDescriptors(t, "pipe") <= others+pipes })
}

func openAndClose(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr)})
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	c.Close()
	eventually(t, "the tunnel has ended", func() bool { return process.live.Count() == 0 })
}

func soakTime(t *testing.T) time.Duration {
	t.Helper()
	value := os.Getenv("SOAK")
	switch {
	case value != "":
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			t.Fatalf("SOAK is %q, want something like 10m", value)
		}
		return d
	case os.Getenv("LONG") != "":
		return 5 * time.Second
	}
	return time.Second
}

// soak is a set of proxies through which many tunnels go, in rounds.
type soak struct {
	round      time.Duration
	goroutines int // while there is no tunnel
	ended      int // tunnels
	// orderly have an upstream that does what it is asked for, and wild one
	// that does anything.
	orderly, wild []*route
}

// route is a proxy for clients of one kind and an upstream of another.
type route struct {
	proxy    *testProxy
	upstream *testbed.Upstream
	dial     func(tb testing.TB) *testbed.Client
}

func newSoak(t *testing.T, round time.Duration) *soak {
	t.Helper()
	certs := testbed.NewCerts(t)
	s := &soak{round: round}
	for _, client := range []string{"tcp", "tls"} {
		for _, upstream := range []string{"tcp", "unix", "tls"} {
			// A busy machine may take its time.
			s.orderly = append(s.orderly, newRoute(t, certs, client, upstream, obliging, &Timeouts{Handshake: -1}))
			// Some of these wait until the proxy ends the tunnel.
			limited := &Timeouts{Handshake: -1, MaxLifetime: 2e9, LifetimeJitter: 1}
			s.wild = append(s.wild, newRoute(t, certs, client, upstream, unpredictable, limited))
		}
	}
	s.goroutines = runtime.NumGoroutine()
	return s
}

func newRoute(
	t *testing.T, certs *testbed.Certs, client, upstream string, script testbed.Script, timeouts *Timeouts,
) *route {
	t.Helper()
	r, h := new(route), &Handler{Timeouts: timeouts}
	h.TransportRaw = json.RawMessage(`{"protocol": "http", "dial_timeout": "1m"}`)
	switch upstream {
	case "tcp":
		r.upstream = testbed.NewUpstream(t, script)
		h.Upstreams = upstreams(r.upstream.Addr)
	case "unix":
		r.upstream = testbed.NewUnixUpstream(t, script)
		h.Upstreams = upstreams("unix/" + r.upstream.Addr)
	case "tls":
		r.upstream = testbed.NewTLSUpstream(t, certs.ServerConfig(), script)
		h.Upstreams = upstreams(r.upstream.Addr)
		h.TransportRaw = json.RawMessage(`{"protocol": "http", "dial_timeout": "1m", "tls": {"insecure_skip_verify": true}}`)
	}
	load(t, h)
	if client == "tls" {
		r.proxy = serveWith(t, h, withTLS(certs.ServerConfig()))
		r.dial = func(tb testing.TB) *testbed.Client {
			tb.Helper()
			return testbed.DialTLS(tb, r.proxy.Addr, certs.ClientConfig())
		}
		return r
	}
	r.proxy = serve(t, h)
	r.dial = func(tb testing.TB) *testbed.Client { tb.Helper(); return testbed.Dial(tb, r.proxy.Addr) }
	return r
}

// run is a round.
func (s *soak) run(t *testing.T, seed uint64) {
	const atATime = 300
	end := time.Now().Add(s.round)
	var waits []func()
	for i := range atATime {
		waits = append(waits, testbed.Go(t, func(tb testing.TB) {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for time.Now().Before(end) {
				s.visit(tb, random, end)
			}
		}))
	}
	for _, wait := range waits {
		wait()
	}
}

// visit opens a tunnel and leaves it in some way.
func (s *soak) visit(tb testing.TB, random *rand.Rand, end time.Time) {
	tb.Helper()
	if random.IntN(2) == 0 {
		c := s.wild[random.IntN(len(s.wild))].dial(tb)
		defer c.Close()
		c.Handshake("/")
		// Nobody waits any longer for the end that a tunnel's lifetime brings.
		timer := time.AfterFunc(time.Until(end), func() { _ = c.NetConn().SetDeadline(time.Unix(1, 0)) })
		defer timer.Stop()
		misbehave(c.Conn, random)
		return
	}
	v := &visitor{
		Client:  s.orderly[random.IntN(len(s.orderly))].dial(tb),
		tb:      tb,
		random:  random,
		longest: s.round / 2,
	}
	defer v.Close()
	v.converse()
}

// expectQuiet waits until nothing is left of the tunnels of a round.
func (s *soak) expectQuiet(t *testing.T) {
	t.Helper()
	eventually(t, "all tunnels have ended", func() bool { return process.live.Count() == 0 })
	for _, r := range append(s.orderly, s.wild...) {
		r.upstream.WaitOpen(t, 0)
	}
	accepted := 0
	for _, r := range append(s.orderly, s.wild...) {
		accepted += r.upstream.Accepted()
	}
	eventually(t, "each tunnel has its line", func() bool {
		for _, r := range append(s.orderly, s.wild...) {
			// Taken away, as they would make the heap grow.
			for _, line := range r.proxy.logs.TakeAll() {
				if line.Message == "tunnel closed" {
					s.ended++
				}
			}
		}
		return s.ended == accepted
	})
	eventually(t, "all goroutines have ended", func() bool { return runtime.NumGoroutine() <= s.goroutines })
}

// liveHeap is how many bytes of the heap are in use for something. Two
// collections empty the pools too.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// expectNoGrowth compares the heap after the first tenth of the time, when all
// that is made once is there, with that at the end.
func expectNoGrowth(t *testing.T, early, late uint64) {
	t.Helper()
	// Tables that have grown with the number of tunnels at a time stay as they
	// are, and in a later round there may be more of these. What is lost with
	// each tunnel adds up: in the shortest run, 1 KiB each is twice as much.
	const tolerance = 1 << 20
	t.Logf("heap: %d KiB after a tenth of the time, %d KiB at the end", early>>10, late>>10)
	if late > early+tolerance {
		t.Errorf("the heap has grown from %d to %d bytes", early, late)
	}
}

// openDescriptors returns how many of a kind the process has, such as "socket",
// where that can be told.
func openDescriptors(t *testing.T, kind string) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		// What has been closed meanwhile does not count.
		if what, err := os.Readlink(dir + e.Name()); err == nil && strings.HasPrefix(what, kind+":") {
			n++
		}
	}
	return n
}
