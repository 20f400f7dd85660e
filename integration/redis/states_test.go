package redis_test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// one, two and three mean the same upstreams on all machines.
const one, two, three = "a.example.com:9000", "b.example.com:9000", "c.example.com:9000"

// sharing is Caddys that share a server.
type sharing struct {
	*server

	up     string // where tunnels go
	caddys []*caddy
}

func startCluster(tb testing.TB, n int) *sharing {
	tb.Helper()
	c := &sharing{server: startServer(tb), up: testbed.NewUpstream(tb, testbed.Echo).Addr}
	for range n {
		c.join(tb)
	}
	return c
}

func (c *sharing) join(tb testing.TB) *caddy {
	tb.Helper()
	joins := startCaddy(tb, c.server, c.up, one, two, three)
	c.caddys = append(c.caddys, joins)
	return joins
}

// agree waits until all say the same of an upstream.
func (c *sharing) agree(tb testing.TB, address, state string) {
	tb.Helper()
	took := eventually(tb, "all say that "+address+" is "+state, func() bool {
		for _, one := range c.caddys {
			if !one.is(address, state) {
				return false
			}
		}
		return true
	})
	tb.Logf("%s was seen as %s by %d processes after %v", address, state, len(c.caddys), took.Round(time.Millisecond))
}

// works checks that tunnels are opened, whatever the storage does.
func (c *sharing) works(tb testing.TB) {
	tb.Helper()
	for _, one := range c.caddys {
		client := testbed.Dial(tb, one.http)
		client.Handshake("/")
		client.Echo("hello")
		client.CloseHandshake(1000)
		client.Close()
	}
}

func TestStatesAreSeenEverywhere(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	for _, state := range []string{"drain", "ready", "maint", "evict"} {
		if problem := c.caddys[0].set(t, one, state); problem != "" {
			t.Errorf("%s was not stored: %s", state, problem)
		}
		c.agree(t, one, state)
	}
	if problem := c.caddys[1].set(t, two, "drain"); problem != "" {
		t.Errorf("drain was not stored: %s", problem)
	}
	joins := c.join(t)
	eventually(t, "it has found the states", func() bool { return strings.Contains(joins.out.String(), "upstream states found") })
	c.agree(t, one, "evict")
	c.agree(t, two, "drain")
	if problem := joins.set(t, one, "ready"); problem != "" {
		t.Errorf("ready was not stored: %s", problem)
	}
	c.agree(t, one, "ready")
	if text := joins.out.String(); strings.Contains(text, `"cause":"set at another instance"`) {
		t.Errorf("what was there when it joined was a change: %s", text)
	}
}

// TestServerIsStopped has it come back with nothing.
func TestServerIsStopped(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	c.caddys[0].set(t, one, "drain")
	c.agree(t, one, "drain")
	c.end(t, syscall.SIGTERM)
	if problem := c.caddys[0].set(t, two, "drain"); problem == "" {
		t.Error("without a server a state was stored")
	}
	if problem := c.caddys[1].set(t, three, "drain"); problem == "" {
		t.Error("without a server a state was stored")
	}
	c.works(t)
	if !c.caddys[0].is(two, "drain") || !c.caddys[0].is(one, "drain") {
		t.Error("a state that was not stored does not hold")
	}
	joins := c.join(t) // which is not held up, and knows nothing
	c.works(t)
	if !joins.is(one, "ready") {
		t.Error("a process knows what it cannot know")
	}
	c.server.start(t)
	for _, address := range []string{one, two, three} {
		c.agree(t, address, "drain")
	}
	for _, one := range c.caddys[:2] {
		said := func(words string) int { return strings.Count(one.out.String(), words) }
		eventually(t, "it says that the storage works", func() bool { return said("the storage works again") > 0 })
		if fails, works := said("the storage of upstream states fails"), said("the storage works again"); fails != 1 || works != 1 {
			t.Errorf("a process has said %d times that the storage fails, and %d times that it works", fails, works)
		}
	}
}

// TestServerIsPaused stops its process, so that connections are accepted and nothing is
// answered: the storage's calls go on for longer than what waits for them.
func TestServerIsPaused(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	c.caddys[0].set(t, one, "drain")
	c.agree(t, one, "drain")
	c.signal(syscall.SIGSTOP)
	if problem := c.caddys[0].set(t, two, "drain"); problem == "" {
		t.Error("a server that is stopped has stored a state")
	}
	over := time.Now().Add(long(time.Minute, 12*time.Second))
	for time.Now().Before(over) {
		c.works(t)
		if !c.caddys[0].is(two, "drain") || !c.caddys[1].is(one, "drain") {
			t.Fatal("a state does not hold")
		}
		time.Sleep(time.Second)
	}
	c.signal(syscall.SIGCONT)
	c.agree(t, two, "drain")
	if problem := c.caddys[1].set(t, one, "ready"); problem != "" {
		t.Errorf("after the pause a state was not stored: %s", problem)
	}
	c.agree(t, one, "ready")
}

// TestLockIsLeftBehind kills a process that holds the lock of the states.
func TestLockIsLeftBehind(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 2)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), holderVariable+"="+c.address)
	holder := start(t, cmd)
	eventually(t, "it has the lock", func() bool { return strings.Contains(holder.out.String(), "locked") })
	if problem := c.caddys[0].set(t, one, "drain"); problem == "" {
		t.Error("a state was stored under a lock that another process holds")
	}
	if !c.caddys[0].is(one, "drain") {
		t.Error("the state does not hold")
	}
	holder.end(t, syscall.SIGKILL)
	c.agree(t, one, "drain") // when the lock has expired
	c.works(t)
}
