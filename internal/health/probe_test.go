package health

import (
	"context"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// soon is the timeout of probes that have to run into it.
const soon = 100 * time.Millisecond

// probed returns what a probe of an address finds out. What the probe does not say
// is what a configuration says that leaves it out.
func probed(t *testing.T, address string, p Probe) error {
	t.Helper()
	p = equipped(address, p)
	return p.Run(t.Context())
}

// equipped is a probe with all that it needs.
func equipped(address string, p Probe) Probe {
	d := &dial.Dialer{Connect: new(net.Dialer).DialContext, Timeout: time.Minute}
	p.Dialer = d
	if p.Timeout == 0 {
		p.Timeout = time.Minute
	}
	if p.Connect == nil {
		p.Connect = func(ctx context.Context) (net.Conn, error) {
			return d.Dial(ctx, dial.Target{Network: "tcp", Address: address}, nil)
		}
	}
	p.Target, p.Replacer = upstream.Address{Network: "tcp", HostPort: address}, literally{}
	p.Request.Method, p.Request.URI = http.MethodGet, "/"
	if p.Expected == nil {
		p.Expected = func(status int) bool { return status/100 == 2 }
	}
	return p
}

// literally is a replacer that knows no placeholders.
type literally struct{}

func (literally) ReplaceAll(text, _ string) string   { return text }
func (literally) ReplaceKnown(text, _ string) string { return text }

func TestHTTPCheckJudgesTheAnswer(t *testing.T) {
	t.Parallel()
	const endless = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
	only := func(want int) func(int) bool { return func(got int) bool { return got == want } }
	matches := regexp.MustCompile
	for name, test := range map[string]struct {
		script testbed.Script
		probe  Probe
		want   string
	}{
		"what is expected":       {testbed.Answer("200 OK", ""), Probe{}, ""},
		"what is not":            {testbed.Answer("301 Moved", ""), Probe{}, "status 301"},
		"switching protocols":    {testbed.Answer("101 Switching Protocols", "", "Upgrade: foo"), Probe{Expected: only(101)}, ""},
		"the body":               {testbed.Answer("200 OK", "it is fine"), Probe{Body: matches("f[a-z]ne$")}, ""},
		"another body":           {testbed.Answer("200 OK", "it is not"), Probe{Body: matches("fine")}, "the body is not"},
		"too late in the body":   {testbed.Answer("200 OK", "it is fine"), Probe{Body: matches("fine"), MaxSize: 8}, "the body is not"},
		"all of the body":        {testbed.Answer("200 OK", strings.Repeat("x", 2<<20)+"fine"), Probe{Body: matches("fine"), MaxSize: -1}, ""},
		"a torn body":            {testbed.Answer("200 OK", "it is fine", "Content-Length: 20"), Probe{Body: matches("fine")}, "reading the body"},
		"a body that never ends": {testbed.RespondKeepOpen(endless), Probe{Body: matches("ok"), Timeout: soon}, "reading the body: took longer than 100ms"},
		"no need for the body":   {testbed.RespondKeepOpen(endless), Probe{}, ""},
		"no answer":              {testbed.Silent, Probe{Timeout: soon}, "waiting for the answer: took longer than 100ms"},
		"half an answer":         {testbed.HalfHead, Probe{Timeout: soon}, "waiting for the answer: took longer than 100ms"},
		"closed":                 {testbed.CloseAfterHead, Probe{}, "waiting for the answer: EOF"},
		"reset":                  {testbed.ResetAfterHead, Probe{}, "waiting for the answer: read"},
		"garbage":                {testbed.Answer("what", ""), Probe{}, "reading the answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := testbed.NewUpstream(t, test.script)
			test.probe.Kind = HTTP
			testbed.ExpectProblem(t, probed(t, up.Addr, test.probe), test.want)
			up.WaitOpen(t, 0)
		})
	}
}

func TestHTTPCheckFollowsRedirectsAtTheUpstream(t *testing.T) {
	t.Parallel()
	up := testbed.NewUpstream(t, func(tb testing.TB, c *testbed.Conn) {
		switch r := c.ReadRequest(); {
		case r.URL.Path == "/":
			c.Send("HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/there\r\n\r\n")
		case r.URL.Path == "/there" && r.Host == "elsewhere.test" && r.Close:
			c.Send("HTTP/1.1 200 OK\r\n\r\n")
		default:
			tb.Errorf("the upstream gets %s %s with Host %s", r.Method, r.URL, r.Host)
		}
	})
	testbed.ExpectProblem(t, probed(t, up.Addr, Probe{Kind: HTTP, FollowRedirects: true}), "")
	testbed.ExpectProblem(t, probed(t, up.Addr, Probe{Kind: HTTP}), "status 302")
}

func TestTCPCheck(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]testbed.Script{
		"an upstream that reads":         func(_ testing.TB, c *testbed.Conn) { c.ExpectEOF() },
		"an upstream that does not":      testbed.BlackHole,
		"an upstream that closes itself": testbed.CloseAtOnce,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testbed.ExpectProblem(t, probed(t, testbed.NewUpstream(t, script).Addr, Probe{Kind: TCP}), "")
		})
	}
}

func TestConnectingFails(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{HTTP, WebSocket, TCP} {
		testbed.ExpectProblem(t, probed(t, testbed.RefusedAddr(t), Probe{Kind: kind}), "dialing: dial tcp")
		hangs := Probe{Kind: kind, Timeout: soon, Connect: func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		testbed.ExpectProblem(t, probed(t, "", hangs), "dialing: took longer than 100ms")
	}
}
