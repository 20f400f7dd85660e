package told

import (
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/directive"
)

// Parse reads the arguments of health_agent.
func (a *Agent) Parse(r *directive.Reader) error {
	if _, err := r.Arg("the port of the agents"); err != nil {
		return err
	}
	if err := r.Number(&a.Port, 1, 65535, "the port of health_agent is a number from 1 to 65535"); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for r.NextArg() {
		name := r.Val()
		if seen[name] {
			return r.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := a.parseSetting(r, name); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) parseSetting(r *directive.Reader, name string) error {
	switch name {
	case "interval", "timeout", "send":
	default:
		return r.Errf("health_agent has no setting %s; it has interval, timeout and send", name)
	}
	text, err := r.Arg("a value")
	switch {
	case err != nil:
		return r.Errf("%s of health_agent needs a value", name)
	case name == "send":
		a.Send = escapes.Replace(text)
		return nil
	case name == "interval":
		return r.Duration(&a.Interval, time.Millisecond, "the interval of health_agent is a duration of at least 1ms")
	}
	return r.Duration(&a.Timeout, time.Millisecond, "the timeout of health_agent is a duration of at least 1ms")
}

// escapes are those of the text that an agent gets, which is often a line. A Caddyfile has
// none of its own.
var escapes = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\r`, "\r", `\t`, "\t")

// Parse reads the arguments of load_report.
func (l *LoadReport) Parse(r *directive.Reader) error {
	if r.CountRemainingArgs() == 0 {
		return nil
	}
	return r.Words(&l.Metrics)
}
