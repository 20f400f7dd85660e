package health

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/testbed"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// said is what holds for an answer, in short.
func said(w upstream.Word) string {
	all := strings.Fields(w.String())
	if w.Reason != "" {
		all = append(all, "#"+w.Reason)
	}
	return strings.Join(all, " ")
}

func TestAnswersOfAgents(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct{ said, problem string }{
		"":                              {"", ""},
		" ,\t ":                         {"", ""},
		"up":                            {"up", ""},
		"UP":                            {"up", ""},
		"Down":                          {"down", ""},
		"fail":                          {"fail", ""},
		"stopped":                       {"stopped", ""},
		"drain":                         {"drain", ""},
		"MAINT":                         {"maint", ""},
		"ready":                         {"ready", ""},
		"75%":                           {"75%", ""},
		"0%":                            {"0%", ""},
		"007%":                          {"7%", ""},
		"99999%":                        {"25600%", ""},
		"99999999999999999999999%":      {"25600%", ""},
		"maxconn:30":                    {"maxconn:30", ""},
		"MaxConn:0":                     {"maxconn:0", ""},
		"maxconn:+5":                    {"maxconn:5", ""},
		"maxconn:99999999999999999999":  {"maxconn:1073741824", ""},
		"75%,maxconn:30,maint,down":     {"down maint 75% maxconn:30", ""},
		"up\tready 50%, maxconn:9":      {"up ready 50% maxconn:9", ""},
		"down up":                       {"up", ""},
		"up down ready maint 1% 2%":     {"down maint 2%", ""},
		"maxconn:1 maxconn:2":           {"maxconn:2", ""},
		"down # out of disk, up":        {"down #out of disk, up", ""},
		"down #\t  why":                 {"down #why", ""},
		"75% # no health, no reason":    {"75%", ""},
		"# down":                        {"", ""},
		"down#up":                       {"", `unknown word "down#up"`},
		"up\x1b[2J # \x1b]0;x":          {"", `unknown word "up\\x1b[2J"`},
		"down # \x1b]0;x\u202e":         {`down #\x1b]0;x\u202e`, ""},
		"hello":                         {"", `unknown word "hello"`},
		"up hello there maxconn:x":      {"up", `unknown word "hello", and 2 more`},
		"100":                           {"", `unknown word "100"`},
		"-5%":                           {"", `unknown word "-5%"`},
		"5%x":                           {"", `no weight "5%x"`},
		"5x%":                           {"", `no weight "5x%"`},
		"5%%":                           {"", `no weight "5%%"`},
		"50% 5%x":                       {"", `no weight "5%x"`},
		"maxconn:":                      {"", `no maxconn "maxconn:"`},
		"maxconn:-1":                    {"", `no maxconn "maxconn:-1"`},
		"maxconn:-99999999999999999999": {"", `no maxconn "maxconn:-99999999999999999999"`},
		"maxconn:1x":                    {"", `no maxconn "maxconn:1x"`},
		"maxconn 5":                     {"", `unknown word "maxconn", and 1 more`},
		"maİnt":                         {"", `unknown word "maİnt"`},
		strings.Repeat("x", 9999):       {"", `unknown word "` + strings.Repeat("x", longestOddity) + `"`},
		"up #" + strings.Repeat("x", 9999): {
			"up #" + strings.Repeat("x", longestReason), "",
		},
	} {
		if a := ParseAnswer(line); said(a.Word) != want.said || a.Problem != want.problem {
			t.Errorf("%.40q says %q, problem %q; want %q, %q", line, said(a.Word), a.Problem, want.said, want.problem)
		}
	}
}

func FuzzAgentAnswer(f *testing.F) {
	for _, seed := range []string{"up", "75%,maxconn:30,maint,down", "down # why", "9%% maxconn:-9 \xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		a := ParseAnswer(line)
		if n := a.Weight.N; n < 0 || n > highestPercentage {
			t.Errorf("%q has the weight %d", line, n)
		}
		if n := a.Most.N; n < 0 || n > mostMaxconn {
			t.Errorf("%q has the limit %d", line, n)
		}
		if len(a.Reason) > longestReason || len(a.Problem) > 5*longestOddity {
			t.Errorf("%q is shown as %q, %q", line, a.Reason, a.Problem)
		}
		if again := ParseAnswer(" " + line); again != a {
			t.Errorf("%q is %v, and after a blank %v", line, a, again)
		}
	})
}

// asked asks an agent.
func asked(t *testing.T, script testbed.Script, p Probe) (Answer, error) {
	t.Helper()
	p = equipped(testbed.NewUpstream(t, script).Addr, p)
	return p.Ask(t.Context())
}

// sends is an agent that says something, and keeps the connection open.
func sends(parts ...string) testbed.Script {
	return func(_ testing.TB, c *testbed.Conn) {
		c.Tolerate()
		for _, part := range parts {
			c.Send(part)
		}
		c.Drain()
	}
}

// sendsAndEnds is one that closes.
func sendsAndEnds(text string) testbed.Script {
	return func(_ testing.TB, c *testbed.Conn) {
		c.Tolerate()
		c.Send(text)
	}
}

func TestAskingAgents(t *testing.T) {
	t.Parallel()
	const mebibyte = 1 << 20
	for name, test := range map[string]struct {
		script testbed.Script
		want   string // what is said
		fails  string // why it is not
	}{
		"a line":                   {sends("down\n"), "down", ""},
		"a line and the end":       {sendsAndEnds("down\r\n"), "down", ""},
		"ended by CR":              {sends("down\rup\n"), "down", ""},
		"an empty line":            {sends("\nup\n"), "", ""},
		"in parts":                 {sends("do", "wn", " 7", "5%", "\n"), "down 75%", ""},
		"two answers":              {sends("down\nup\n"), "down", ""},
		"two answers, one later":   {sends("down\n", "up\n"), "down", ""},
		"a line, then a MiB":       {sends("down\n", strings.Repeat("up ", mebibyte/3)), "down", ""},
		"a long line":              {sends(strings.Repeat("up,", 5000), "\n"), "up", ""},
		"a MiB without an end":     {sends(strings.Repeat("up ", mebibyte/3)), "", "is no line"},
		"no end of the line":       {sendsAndEnds("down"), "", "is no line"},
		"a NUL before the end":     {sends("down\x00\n"), "", "is no line"},
		"closed at once":           {testbed.CloseAtOnce, "", "reading the answer: EOF"},
		"never an answer":          {testbed.BlackHole, "", "waiting for the answer: took longer than 100ms"},
		"half of one":              {sends("down"), "", "waiting for the answer: took longer than 100ms"},
		"it drips":                 {drips, "", "waiting for the answer: took longer than 100ms"},
		"an answer of HTTP":        {sends("HTTP/1.1 200 OK\r\n\r\n"), "", ""},
		"a line of another client": {sends("SSH-2.0-x\r\n"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := Probe{}
			if strings.Contains(test.fails, "100ms") {
				p.Timeout = soon
			}
			a, err := asked(t, test.script, p)
			testbed.ExpectProblem(t, err, test.fails)
			if said(a.Word) != test.want {
				t.Errorf("it has said %q, want %q", said(a.Word), test.want)
			}
		})
	}
}

// drips sends bytes of a line for as long as somebody listens.
func drips(_ testing.TB, c *testbed.Conn) {
	c.Tolerate()
	for range 10000 {
		if _, err := c.Write([]byte("u")); err != nil {
			return
		}
		time.Sleep(time.Millisecond) // the pace is the fault
	}
}

func TestAgentGetsWhatIsToBeSent(t *testing.T) {
	t.Parallel()
	a, err := asked(t, func(_ testing.TB, c *testbed.Conn) {
		c.Expect("state of a:1\n")
		c.Send("maint\n")
		c.ExpectEOF()
	}, Probe{Send: "state of a:1\n"})
	if err != nil || said(a.Word) != "maint" {
		t.Errorf("got %v, %v", a, err)
	}
}

// answer has the agent of a site answer one probe, and returns what was told of that.
func (s *site) answer(line string) (told string) {
	s.lines <- line
	synctest.Wait()
	return s.tells()
}

// agent is a configuration that asks one, which says what answer gives it; nothing is a
// miss.
func (w *world) agent() *site {
	w.t.Helper()
	lines := make(chan string)
	ask := func(ctx context.Context) (Answer, error) {
		select {
		case line := <-lines:
			if line == "" {
				return Answer{}, errors.New("nobody is there")
			}
			return ParseAnswer(line), nil
		case <-ctx.Done():
			return Answer{}, ctx.Err()
		}
	}
	s := w.run(Config{
		Interval: time.Minute, Ask: func(*upstream.Endpoint) func(context.Context) (Answer, error) { return ask },
	}, well)
	s.lines = lines
	return s
}

func TestWordsOfAgentsStayUntilOthersOfTheirKind(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.agent()
		for _, step := range []struct{ line, want string }{
			{"maint 50%", "maint 50%"},
			{"down maxconn:3 # disk", "down maint 50% maxconn:3 #disk"},
			{"ready", "down ready 50% maxconn:3 #disk"},
			{"hello", "down ready 50% maxconn:3 #disk"},
			{"", "down ready 50% maxconn:3 #disk"},
			{"", "down ready 50% maxconn:3 #disk"},
			{"up", "up ready 50% maxconn:3"},
			{"", "up ready 50% maxconn:3"},
			{"", "up ready 50% maxconn:3"},
			{"", ""},
			{"", ""},
			{"drain", "drain"},
		} {
			s.answer(step.line)
			if got := said(w.table.WordOf(s.pool.Fixed[0])); got != step.want {
				t.Errorf("after %q it is %q, want %q", step.line, got, step.want)
			}
		}
	})
}

func TestOddAnswersAreToldOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.agent()
		for _, step := range []struct {
			line string
			want int
		}{{"up", 1}, {"hello", 1}, {"hello", 0}, {"up", 0}, {"maxconn:-1", 1}} {
			if told := s.answer(step.line); strings.Count(told, address) != step.want {
				t.Errorf("after %q told is %q, want %d things", step.line, told, step.want)
			}
		}
	})
}
