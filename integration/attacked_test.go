package integration

import (
	"errors"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
)

// tryEcho is echo where the connection may be at its end.
func (c *streamClient) tryEcho(text string) error {
	want := testbed.NewFrame(testbed.Text, text)
	if _, err := c.Write(want.Bytes(true)); err != nil {
		return err
	}
	got, err := readFrame(c.in)
	if err == nil && string(got.Payload) != text {
		err = errors.New("another frame came")
	}
	return err
}

// startAttacked starts a Caddy with upstreams for what attacks need.
func startAttacked(t *testing.T) *caddy {
	t.Helper()
	var routes []string
	for path, script := range map[string]testbed.Script{
		"/flood":   flood,
		"/stuck":   readNothing,
		"/silent":  testbed.Silent,
		"/cookies": expectSixtyCookies,
		"/drain": func(tb testing.TB, c *testbed.Conn) {
			tb.Helper()
			c.Tolerate()
			c.AcceptHandshake()
			c.Drain()
		},
		"": testbed.Echo,
	} {
		up := testbed.NewUpstream(t, script)
		routes = append(routes, "handle "+path+" {\n"+proxyTo(up.Addr)+"\n}")
	}
	c := prepareCaddy(t)
	// The site has no host, so that requests without one come to it.
	hostless := strings.NewReplacer("http://{$HTTP}", "http://:"+portOf(c.http), "https://{$HTTPS}", "https://:"+portOf(c.https))
	// An HTTP/3 server holds a connection for the idle timeout after its end.
	brief := strings.Replace(streaming, "timeouts {", "timeouts {\nidle 2s", 1)
	c.run(t, hostless.Replace(site(strings.Join(routes, "\n"), brief)), "GODEBUG=http2xconnect=1")
	return c
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }

// expectSixtyCookies wants them in one field (RFC 9113 section 8.2.3).
func expectSixtyCookies(tb testing.TB, c *testbed.Conn) {
	tb.Helper()
	c.Tolerate()
	r := c.ReadRequest()
	if got := r.Header.Values("Cookie"); len(got) != 1 || strings.Count(got[0], "; ") != 59 {
		tb.Errorf("the upstream has got the cookies %q", got)
	}
	c.Send("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
}

// expectHoldings waits until the process holds no more than it did.
func expectHoldings(t *testing.T, c *caddy, before holdings) {
	t.Helper()
	const slack = 2 << 10
	var now holdings
	defer func() { t.Logf("the process held %+v before, and %+v after", before, now) }()
	eventually(t, "the process is as it was", func() bool {
		now = c.holdings(t)
		return now.goroutines <= before.goroutines && now.descriptors <= before.descriptors && now.heapKiB < before.heapKiB+slack
	})
}
