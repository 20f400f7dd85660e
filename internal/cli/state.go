package cli

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// spreadTime is how long it may take until an instance has taken over what the storage
// has: the 5 s that the documentation promises, and what asking takes.
const spreadTime = 6 * time.Second

// stateCommand is the command that gives an upstream a state.
func stateCommand(state string) *cobra.Command {
	cmd := new(cobra.Command)
	expires := func() {
		cmd.Flags().String("for", "", "Time after which the upstream is ready again by itself")
	}
	switch state {
	case upstream.Ready:
		cmd.Use, cmd.Short = "ready <address>", "Lets an upstream get tunnels again"
		cmd.Long = "\nTakes back what drain, maint or evict said about an upstream.\n"
	case upstream.Drain:
		cmd.Use, cmd.Short = "drain <address> [--for <duration>]", "Keeps newcomers away from an upstream"
		cmd.Long = `
Keeps newcomers away from an upstream: they go to others. Tunnels that are there
stay, and a client that a sticky policy knows to belong there still gets in, so
that sessions can end in their own time. To keep everybody away there is maint.
`
		expires()
	case upstream.Maint:
		cmd.Use, cmd.Short = "maint <address> [--for <duration>]", "Lets an upstream get no new tunnels"
		cmd.Long = `
Lets an upstream get no new tunnels, whoever comes: clients that belong there go
elsewhere, too. Tunnels that are there stay; evict ends them as well.
`
		expires()
	case upstream.Evict:
		cmd.Use, cmd.Short = "evict <address> [--period <duration>] [--for <duration>] [--no-wait]", "Empties an upstream"
		cmd.Long = `
Lets an upstream get no new tunnels, as maint does, and ends those that are there one after
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
	r, err := c.setStates(request)
	if err != nil {
		return 0, err
	}
	code := caddy.ExitCodeSuccess
	for _, of := range r.said {
		if !of.answer.Stored {
			code = exitNotStored
		}
	}
	c.warnOfStorage(state, r)
	if state == upstream.Evict && !c.flags.Bool("no-wait") {
		err = c.awaitEmpty(r)
	} else {
		err = c.printStates(r, sayState)
	}
	if err != nil {
		return 0, err
	}
	return code, c.err(r.failed)
}

// warnOfStorage says who does not know a state that was set.
func (c *console) warnOfStorage(state string, r *replies[admin.StateAnswer]) {
	for _, of := range r.said {
		answer, fields := &of.answer, []zap.Field{}
		if c.several() {
			fields = append(fields, zap.String("node", of.node.name))
		}
		if !answer.Stored {
			caddy.Log().Warn("the state holds but could not be stored: "+
				"other instances do not know it, and a restart forgets it",
				append(fields, zap.String("problem", printable.Text(answer.Problem)))...)
		}
		if answer.Local && answer.Stored && state != upstream.Ready && !c.several() {
			caddy.Log().Info("only the Caddy that was asked knows this state: "+
				"on other machines the address means another backend", zap.String("upstream", printable.Text(answer.Address)))
		}
	}
}

// states are what nodes say of an upstream.
type states struct {
	Upstreams []nodeState `json:"upstreams"`
	// Failed are the nodes that are missing.
	Failed []failure `json:"failed,omitempty"`
}

type nodeState struct {
	Node string `json:"node"`
	admin.StateAnswer
}

// printStates prints what nodes say of an upstream: for people, what say makes of
// it with the tunnels of all of them.
func (c *console) printStates(r *replies[admin.StateAnswer], say func(*admin.Upstream) string) error {
	sum := sumOf(r)
	text := say(&sum) + c.atNodes(len(r.said))
	if !c.several() {
		return c.print(r.said[0].answer, text)
	}
	list := states{Failed: r.failed}
	for _, of := range r.said {
		list.Upstreams = append(list.Upstreams, nodeState{of.node.name, of.answer})
	}
	return c.print(list, text)
}

// sumOf is an upstream with the tunnels of all nodes.
func sumOf(r *replies[admin.StateAnswer]) admin.Upstream {
	sum := r.said[0].answer.Upstream
	for _, of := range r.said[1:] {
		sum.Tunnels += of.answer.Tunnels
	}
	return sum
}

// setStates sets the state at the nodes that know the upstream, of which there is one
// at least if there is no error. One that shares its storage with the first takes the
// state over by itself; at the others it is set, too.
func (c *console) setStates(request admin.StateRequest) (*replies[admin.StateAnswer], error) {
	set := func(n *node) (answer admin.StateAnswer, err error) {
		err = n.ask(http.MethodPost, "upstreams/state", request, &answer)
		if err == nil && answer.State != request.State && (request.State != upstream.Ready || answer.State != upstream.Removed) {
			err = fmt.Errorf("%s is in state %s: %s",
				printable.Text(answer.Address), printable.Text(answer.State), printable.Text(answer.Problem))
		}
		return answer, err
	}
	nodes, r := c.nodes, new(replies[admin.StateAnswer])
	if c.several() {
		nodes, r.failed = c.thoseWith(request.Address)
	}
	for len(nodes) > 0 && len(r.said) == 0 {
		answer, err := set(nodes[0])
		if !isUnknown(err) {
			r.add(nodes[0], answer, err)
		}
		nodes = nodes[1:]
	}
	switch {
	case len(r.said) > 0:
	case len(r.failed) > 0:
		return nil, c.err(r.failed)
	default:
		return nil, fmt.Errorf("there is no upstream %q; caddy websockets list shows the addresses that there are", request.Address)
	}
	first := r.said[0].answer
	rest := askAll(nodes, func(n *node) (admin.StateAnswer, error) {
		if first.Stored && !first.Local {
			taken, err := n.awaitState(first)
			if err != nil {
				return first, err
			}
			if taken != nil {
				return *taken, nil
			}
			caddy.Log().Info("a node has another storage, so the state was set there, too", zap.String("node", n.name))
		}
		return set(n)
	})
	r.said, r.failed = append(r.said, rest.said...), append(r.failed, rest.failed...)
	return r, nil
}

// thoseWith returns the nodes that know an address, and those that do not answer.
func (c *console) thoseWith(address string) (nodes []*node, failed []failure) {
	r := askAll(c.nodes, (*node).upstreams)
	for _, of := range r.said {
		if slices.ContainsFunc(of.answer, func(u admin.Upstream) bool { return u.Address == address }) {
			nodes = append(nodes, of.node)
		}
	}
	return nodes, r.failed
}

// awaitState waits until the node has taken over a state that another one has stored. It
// returns nil if the node has not, so that the two do not share a storage.
func (n *node) awaitState(stored admin.StateAnswer) (*admin.StateAnswer, error) {
	for deadline := time.Now().Add(spreadTime); ; time.Sleep(countInterval) {
		list, err := n.upstreamsThroughReload()
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			if u.Address == stored.Address && u.Since.Equal(stored.Since) {
				return &admin.StateAnswer{Upstream: u, Stored: true}, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, nil //nolint:nilnil // as it says above
		}
	}
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
		return fmt.Sprintf("%s gets no newcomers, %d open", address, u.Tunnels)
	case upstream.Maint:
		return fmt.Sprintf("%s gets no new tunnels, %d open", address, u.Tunnels)
	case upstream.Evict:
		return fmt.Sprintf("%s is being emptied, %d left", address, u.Tunnels)
	case upstream.Removed:
		return fmt.Sprintf("%s is in no loaded configuration, so it gets no new tunnels, %d open", address, u.Tunnels)
	}
	return fmt.Sprintf("%s gets new tunnels, %d open", address, u.Tunnels)
}
