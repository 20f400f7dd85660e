package integration

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// version is a configuration that differs from those of other versions.
func version(n int, handler string) string {
	return site(fmt.Sprintf("header X-Version %d\n%s", n, handler))
}

// TestReloadStorm reloads as often as it can under tunnels that are busy both
// ways, while new ones come all the time. None may end by itself, and no message
// may be lost or change places.
func TestReloadStorm(t *testing.T) {
	t.Parallel()
	tunnels, reloads := amount(200, 100), amount(50, 15)
	upstreams := startChatServers(t, 4)
	c := startCaddy(t, version(0, proxyTo(addresses(upstreams))))
	chats := c.startChats(t, tunnels)
	progress(t, chats)

	var opened atomic.Int64
	stop := make(chan struct{})
	visitor := testbed.Go(t, func(tb testing.TB) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if c.visit(tb) {
				opened.Add(1)
			}
		}
	})
	for n := 1; n <= reloads; n++ {
		c.reload(t, version(n, proxyTo(addresses(upstreams))))
	}
	close(stop)
	visitor()
	if opened.Load() == 0 {
		t.Error("no tunnel was opened during the reloads")
	}
	progress(t, chats)
	finish(t, chats)
	closed := c.log.wait(t, tunnels+int(opened.Load()), tunnelClosed)
	for _, line := range closed {
		checkClosedBy(t, line, "client", gorilla.CloseNormalClosure)
	}
	t.Logf("%d tunnels came and went", len(closed)-tunnels)
}

// visit chats for a moment. It returns false if no tunnel came about: Linux
// resets connections that wait in the queue of a listener when that is closed,
// and net/http those of which it has not read the request.
func (c *caddy) visit(tb testing.TB) bool {
	tb.Helper()
	dialer := gorilla.Dialer{HandshakeTimeout: timeout}
	conn, resp, err := dialer.Dial(c.url("ws", "/"), nil)
	if err != nil {
		if resp != nil {
			tb.Errorf("a handshake was answered with %s", resp.Status)
		}
		return false
	}
	defer conn.Close()
	chat := newChat(conn)
	chat.client = true
	time.AfterFunc(chatPause, chat.goodbye)
	if e := gorillaEnd(conn, chat.run()); e.Code != gorilla.CloseNormalClosure {
		tb.Errorf("a chat during the reloads ended with %+v", e)
	}
	return true
}

// TestReloadsLeaveNothingBehind compares what a process holds after many reloads
// with and without tunnels: those must not keep the configurations alive that
// they were opened under.
func TestReloadsLeaveNothingBehind(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("looks into /proc")
	}
	t.Parallel()
	without, with := growthByReloads(t, 0), growthByReloads(t, amount(200, 50))
	t.Logf("growth without tunnels: %+v; with: %+v", without, with)
	if with.goroutines > without.goroutines+5 {
		t.Error("goroutines are left")
	}
	if with.descriptors > without.descriptors+5 {
		t.Error("descriptors are left")
	}
	// A configuration is some hundred KiB.
	if with.heapKiB > without.heapKiB+1024 {
		t.Error("memory is left")
	}
}

// holdings are what a process holds.
type holdings struct {
	goroutines, descriptors, heapKiB int
}

// growthByReloads returns what a process holds more after many reloads.
func growthByReloads(t *testing.T, tunnels int) holdings {
	t.Helper()
	up := testbed.NewUpstream(t, testbed.Echo)
	c := startCaddy(t, version(0, proxyTo(up.Addr)))
	clients, _ := c.openClients(t, tunnels)
	// What is made once is there after some reloads.
	const first = 5
	last := first + amount(50, 10)
	var before holdings
	for n := 1; n <= last; n++ {
		c.reload(t, version(n, proxyTo(up.Addr)))
		if n == first {
			before = c.holdings(t)
		}
	}
	after := c.holdings(t)
	for _, client := range clients {
		client.Echo("still here")
		client.CloseHandshake(1000)
	}
	return holdings{
		goroutines:  after.goroutines - before.goroutines,
		descriptors: after.descriptors - before.descriptors,
		heapKiB:     after.heapKiB - before.heapKiB,
	}
}

var (
	goroutineTotal = regexp.MustCompile(`^goroutine profile: total (\d+)`)
	heapInUse      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

// holdings asks the process, until it says the same twice: what served the
// reload takes its time to end.
func (c *caddy) holdings(tb testing.TB) holdings {
	tb.Helper()
	var now holdings
	eventually(tb, "the process is at rest", func() bool {
		was := now
		now.goroutines = c.number(tb, "/debug/pprof/goroutine?debug=1", goroutineTotal)
		// Collected twice, as pools keep what they hold through one collection.
		c.number(tb, "/debug/pprof/heap?gc=1&debug=1", heapInUse)
		now.heapKiB = c.number(tb, "/debug/pprof/heap?gc=1&debug=1", heapInUse) >> 10
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.cmd.Process.Pid))
		if err != nil {
			tb.Fatal(err)
		}
		now.descriptors = len(entries)
		return now.goroutines == was.goroutines && now.descriptors == was.descriptors &&
			was.heapKiB-now.heapKiB < 16
	})
	return now
}

// number finds a number in an answer of the admin endpoint.
func (c *caddy) number(tb testing.TB, path string, pattern *regexp.Regexp) int {
	tb.Helper()
	status, answer, err := c.adminRequest(tb, http.MethodGet, path, "")
	if err != nil || status != http.StatusOK {
		tb.Fatalf("GET %s: status %d, %v", path, status, err)
	}
	found := pattern.FindStringSubmatch(answer)
	if found == nil {
		tb.Fatalf("GET %s: nothing matches %v", path, pattern)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// TestStopOfManyTunnels has the process exit with many tunnels, of which
// every tenth is stuck. All other clients are told.
func TestStopOfManyTunnels(t *testing.T) {
	tunnels := amount(3000, 600)
	echo, stuck := testbed.NewUpstream(t, testbed.Echo), testbed.NewUpstream(t, flood)
	c := startCaddy(t, site(fmt.Sprintf("handle /stuck {\n%s\n}\nhandle {\n%s\n}",
		proxyTo(stuck.Addr), proxyTo(echo.Addr))))
	var reachable []*testbed.Client
	for i := range tunnels {
		client := c.dial(t, i%2 == 1)
		if i%10 == 0 {
			client.Handshake("/stuck")
			continue
		}
		client.Handshake("/")
		reachable = append(reachable, client)
	}
	began := time.Now()
	c.signal(t, syscall.SIGTERM)
	for _, client := range reachable {
		client.ExpectClose(1001)
	}
	c.expectExit(t)
	t.Logf("the process has ended %v after the signal", time.Since(began))
	expectShutdown(t, c, tunnels)
}
