package websocketproxy

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// tcpOption returns an option of the socket of this process that is connected
// to peer. There may be none for a moment, while the relay moves a socket to
// another descriptor.
func tcpOption(t *testing.T, peer net.Addr, option int) (value int, ok bool) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		name, err := unix.Getpeername(fd)
		if err != nil {
			continue // not a socket, or not connected
		}
		if inet, ok := name.(*unix.SockaddrInet4); ok && inet.Port == peer.(*net.TCPAddr).Port {
			value, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, option)
			return value, err == nil
		}
	}
	return 0, false
}

func TestTCPGivesUpDeadPeers(t *testing.T) {
	certs := testbed.NewCerts(t)
	tests := map[string]struct {
		transport                      string
		write                          time.Duration
		idle, interval                 int // of probes towards the upstream
		clientTimeout, upstreamTimeout int
	}{
		// The server's probes come after 15 s and every 15 s, and four may be lost.
		"default":         {idle: 60, interval: 10, clientTimeout: 75_000, upstreamTimeout: 100_000},
		"short timeout":   {write: time.Second, idle: 60, interval: 10, clientTimeout: 75_000, upstreamTimeout: 100_000},
		"long timeout":    {write: time.Hour, idle: 60, interval: 10, clientTimeout: 3605_000, upstreamTimeout: 3605_000},
		"no timeout":      {write: -1, idle: 60, interval: 10},
		"own probes":      {transport: `, "keep_alive": {"probe_interval": "40s"}`, idle: 15, interval: 40, clientTimeout: 75_000, upstreamTimeout: 175_000},
		"no probes":       {transport: `, "keep_alive": {"probe_interval": -1}`, idle: 7200, interval: 75, clientTimeout: 75_000, upstreamTimeout: 65_000},
		"other keepalive": {transport: `, "keep_alive": {"enabled": false}`, idle: 60, interval: 10, clientTimeout: 75_000, upstreamTimeout: 100_000},
	}
	for name, tt := range tests {
		for _, kind := range []string{"plain", "tls"} {
			t.Run(name+"/"+kind, func(t *testing.T) {
				up := testbed.NewUpstream(t, nil)
				_, c := dialProxy(t, &Handler{
					Upstreams:    upstreams(up.Addr),
					TransportRaw: json.RawMessage(`{"protocol": "http"` + tt.transport + `}`),
					Timeouts:     &Timeouts{Write: caddy.Duration(tt.write)},
				}, kind, certs)
				u := accept(t, up, c)
				for what, want := range map[string]struct {
					conn          net.Conn
					option, value int
				}{
					"client's TCP_USER_TIMEOUT":   {c.NetConn(), unix.TCP_USER_TIMEOUT, tt.clientTimeout},
					"upstream's TCP_USER_TIMEOUT": {u.NetConn(), unix.TCP_USER_TIMEOUT, tt.upstreamTimeout},
					"upstream's TCP_KEEPIDLE":     {u.NetConn(), unix.TCP_KEEPIDLE, tt.idle},
					"upstream's TCP_KEEPINTVL":    {u.NetConn(), unix.TCP_KEEPINTVL, tt.interval},
				} {
					eventually(t, fmt.Sprintf("the %s is %d", what, want.value), func() bool {
						got, ok := tcpOption(t, want.conn.LocalAddr(), want.option)
						return ok && got == want.value
					})
				}
			})
		}
	}
}
