package websocketproxy

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// Tunnels come and go in all ways at random for some seconds. That neither
// tunnel nor upstream nor goroutine is left, newProxy and TestMain check.
func TestTunnelsComeAndGo(t *testing.T) {
	const atATime = 500
	lasts := 5 * time.Second
	if testing.Short() {
		lasts = time.Second
	}
	t.Run("first", openAndClose) // the pollers of the process keep theirs
	before := openDescriptors(t)
	t.Run("many", func(t *testing.T) {
		up := testbed.NewUpstream(t, unpredictable)
		p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr), Timeouts: &Timeouts{MaxLifetime: 2e9, LifetimeJitter: 1}})
		end := time.Now().Add(lasts)
		var wg sync.WaitGroup
		for i := range atATime {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 4))
				for time.Now().Before(end) {
					<-comeAndGo(t, p, random)
				}
			})
		}
		wg.Wait()
		t.Logf("%d tunnels", up.Accepted())
		eventually(t, "all tunnels have ended", func() bool { return liveTunnels.count() == 0 })
		eventually(t, "each has its line", func() bool {
			return p.logs.FilterMessage("tunnel closed").Len() == up.Accepted()
		})
	})
	eventually(t, "all descriptors are closed", func() bool { return openDescriptors(t) <= before })
}

func openAndClose(t *testing.T) {
	up := testbed.NewUpstream(t, testbed.Echo)
	p := newProxy(t, &Handler{Upstreams: upstreams(up.Addr)})
	c := testbed.Dial(t, p.Addr)
	c.Handshake("/")
	c.Close()
	eventually(t, "the tunnel has ended", func() bool { return liveTunnels.count() == 0 })
}

// comeAndGo opens a tunnel and leaves it in some way.
func comeAndGo(t *testing.T, p *testProxy, random *rand.Rand) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	n := random.Uint64()
	testbed.Go(t, func(tb testing.TB) {
		defer close(done)
		c := testbed.Dial(tb, p.Addr)
		defer c.Close()
		c.Handshake("/")
		misbehave(c.Conn, rand.New(rand.NewPCG(n, 5)))
	})
	return done
}

// unpredictable is an upstream that ends its connections in some way.
func unpredictable(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	c.AcceptHandshake()
	misbehave(c, rand.New(rand.NewPCG(rand.Uint64(), 6)))
}

// misbehave sends something and ends in some way. That the other side may do so
// at any moment is why errors are of no interest here.
func misbehave(c *testbed.Conn, random *rand.Rand) {
	for range random.IntN(10) {
		f := testbed.NewFrame(testbed.Binary, strings.Repeat("x", random.IntN(50_000)))
		raw := f.Bytes(random.IntN(2) == 0)
		if random.IntN(20) == 0 {
			raw = raw[:len(raw)/2] // leaves the peer inside of a frame
		}
		if _, err := c.Write(raw); err != nil {
			return
		}
	}
	buf := make([]byte, random.IntN(100_000)+1)
	_ = c.NetConn().SetReadDeadline(time.Now().Add(time.Duration(random.IntN(300)) * time.Millisecond))
	_, _ = c.NetConn().Read(buf)
	switch random.IntN(5) {
	case 0:
		c.Reset()
	case 1:
		half, _ := c.NetConn().(interface{ CloseWrite() error })
		_ = half.CloseWrite()
		drain(c)
	case 2:
		_, _ = c.Write(testbed.NewClose(1000, "").Bytes(true))
		drain(c)
	case 3:
		drain(c) // until the proxy ends it
	}
}

func drain(c *testbed.Conn) {
	buf := make([]byte, 10_000)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// openDescriptors returns how many the process has, where that can be told.
func openDescriptors(t *testing.T) int {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
