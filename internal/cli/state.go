package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// countInterval is how often evict looks how many tunnels are left.
const countInterval = 200 * time.Millisecond

// stateCommand is the command that gives an upstream a state.
func stateCommand(state string) *cobra.Command {
	cmd := new(cobra.Command)
	expires := func() {
		cmd.Flags().String("for", "", "Time after which the upstream is ready again by itself")
	}
	switch state {
	case upstream.Ready:
		cmd.Use, cmd.Short = "ready <address>", "Lets an upstream get tunnels again"
		cmd.Long = "\nTakes back what drain or evict said about an upstream.\n"
	case upstream.Drain:
		cmd.Use, cmd.Short = "drain <address> [--for <duration>]", "Lets an upstream get no new tunnels"
		cmd.Long = "\nLets an upstream get no new tunnels; those that are there stay.\n"
		expires()
	case upstream.Evict:
		cmd.Use, cmd.Short = "evict <address> [--period <duration>] [--for <duration>] [--no-wait]", "Empties an upstream"
		cmd.Long = `
Lets an upstream get no new tunnels, and ends those that are there one after
another over --period, the longest idle ones first. Their clients are asked to
connect again, as the configuration says (status 1012 by default), which leads
them to another upstream.

The command shows how many are left and ends when there is none; what it has
begun goes on without it.
`
		expires()
		cmd.Flags().String("period", "", "Time over which the tunnels are ended (default 30s)")
		cmd.Flags().Bool("no-wait", false, "Do not wait until the upstream is empty")
	}
	return runs(cmd, func(c *console) (int, error) { return c.setState(state) })
}

// setState sets the state of the upstream that is the command's argument.
func (c *console) setState(state string) (int, error) {
	request, err := c.stateRequest(state)
	if err != nil {
		return 0, err
	}
	var answer admin.StateAnswer
	err = c.ask(http.MethodPost, "upstreams/state", request, &answer)
	if refused, ok := errors.AsType[*answerError](err); ok && refused.status == "404" {
		return 0, fmt.Errorf("there is no upstream %q; caddy websockets list shows the addresses that there are",
			request.Address)
	}
	if err != nil {
		return 0, err
	}
	if answer.State != state && (state != upstream.Ready || answer.State != upstream.Removed) {
		return 0, fmt.Errorf("%s is in state %s: %s",
			printable.Text(answer.Address), printable.Text(answer.State), printable.Text(answer.Problem))
	}
	code := caddy.ExitCodeSuccess
	if !answer.Stored {
		code = exitNotStored
		caddy.Log().Warn("the state holds but could not be stored: "+
			"other instances do not know it, and a restart forgets it", zap.String("problem", printable.Text(answer.Problem)))
	}
	if answer.Local && answer.Stored && state != upstream.Ready {
		caddy.Log().Info("only the Caddy that was asked knows this state: "+
			"on other machines the address means another backend", zap.String("upstream", printable.Text(answer.Address)))
	}
	if state == upstream.Evict && !c.flags.Bool("no-wait") {
		err = c.awaitEmpty(&answer)
	} else {
		err = c.print(answer, sayState(&answer.Upstream))
	}
	if err != nil {
		return 0, err
	}
	return code, nil
}

func (c *console) stateRequest(state string) (request admin.StateRequest, err error) {
	args := c.flags.Args()
	if len(args) != 1 || args[0] == "" {
		return request, errors.New("say which upstream: one address, as the list has it")
	}
	request = admin.StateRequest{Address: args[0], State: state, By: whoAsks()}
	if state == upstream.Ready {
		return request, nil
	}
	if request.ExpiresIn, err = c.duration("for", upstream.LongestExpiry); err != nil {
		return request, err
	}
	if request.ExpiresIn != nil && *request.ExpiresIn == 0 {
		return request, errors.New("--for is more than 0; without it the state stays")
	}
	if state == upstream.Evict {
		request.Period, err = c.duration("period", admin.LongestPeriod)
	}
	return request, err
}

// whoAsks is the name of the user and the machine, as far as they are known.
func whoAsks() string {
	name := ""
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	name = printable.Text(name)
	return strings.ToValidUTF8(name[:min(len(name), admin.LongestName)], "") // where it ends within a character
}

// sayState says for people what the state of an upstream means.
func sayState(u *admin.Upstream) string {
	address := printable.Text(u.Address)
	switch u.State {
	case upstream.Drain:
		return fmt.Sprintf("%s gets no new tunnels, %d open", address, u.Tunnels)
	case upstream.Evict:
		return fmt.Sprintf("%s is being emptied, %d left", address, u.Tunnels)
	case upstream.Removed:
		return fmt.Sprintf("%s is in no loaded configuration, so it gets no new tunnels, %d open", address, u.Tunnels)
	}
	return fmt.Sprintf("%s gets new tunnels, %d open", address, u.Tunnels)
}

// awaitEmpty shows how many tunnels an upstream has left until there is none, or
// somebody has changed its state.
func (c *console) awaitEmpty(answer *admin.StateAnswer) error {
	p := countdown{console: c}
	defer p.end()
	for answer.Tunnels > 0 {
		if err := p.show(&answer.Upstream); err != nil {
			return err
		}
		time.Sleep(countInterval)
		list, err := c.upstreamsThroughReload()
		if err != nil {
			return err
		}
		if err := update(answer, list); err != nil {
			return err
		}
	}
	p.end()
	return c.print(answer, printable.Text(answer.Address)+" is empty")
}

// update finds the upstream of an answer in a newer list. One that is neither
// configured nor has tunnels may be missing.
func update(a *admin.StateAnswer, list []admin.Upstream) error {
	for _, u := range list {
		if u.Address != a.Address {
			continue
		}
		if u.State != upstream.Evict {
			return fmt.Errorf("%s is not being emptied any more: its state is %s, and %d are left",
				printable.Text(u.Address), printable.Text(u.State), u.Tunnels)
		}
		a.Upstream = u
		return nil
	}
	a.Tunnels = 0
	return nil
}

// countdown shows a number that changes: in one line of a terminal, else in a
// line for each change, and not at all to programs.
type countdown struct {
	*console

	last int // what was shown last, or 0
}

func (p *countdown) show(u *admin.Upstream) error {
	if p.json || u.Tunnels == p.last {
		return nil
	}
	p.last = u.Tunnels
	if !p.terminal {
		_, err := fmt.Fprintln(p.out, sayState(u))
		return err
	}
	_, err := fmt.Fprintf(p.out, "\r\x1b[K%s", sayState(u))
	return err
}

// end leaves the line.
func (p *countdown) end() {
	if p.terminal && !p.json && p.last > 0 {
		_, _ = fmt.Fprintln(p.out) // what follows fails, too
		p.last = 0
	}
}
