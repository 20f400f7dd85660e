package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

// reloadTime is how long commands that go on for longer bear it that nobody
// answers: a reload replaces the admin endpoint.
const reloadTime = 5 * time.Second

// errUnreachable is the cause of all failures but those that Caddy answers with.
var errUnreachable = errors.New("is Caddy running there, with its admin endpoint on? Tell where by --address or --config")

// answerError is an error that Caddy answers with.
type answerError struct {
	status, text string
}

func (e *answerError) Error() string { return printable.Text(e.text) }

// requestOf is what an error of AdminAPIRequest says before the cause: the path of
// the API is nothing that whoever uses the commands has to know.
var requestOf = regexp.MustCompile(`^performing request: \w+ "[^"]*": `)

// adminAddress finds out where the admin endpoint is, as Caddy's own commands
// do.
func adminAddress(flags caddycmd.Flags) (string, error) {
	address, file, adapter := flags.String("address"), flags.String("config"), flags.String("adapter")
	var config []byte
	if address == "" && file != "" {
		var err error
		if config, _, _, err = caddycmd.LoadConfig(file, adapter); err != nil {
			return "", err
		}
		var given struct {
			Admin struct {
				Disabled bool `json:"disabled"`
			} `json:"admin"`
		}
		if json.Unmarshal(config, &given) == nil && given.Admin.Disabled {
			return "", fmt.Errorf("the admin endpoint is off in %s; without it a running Caddy cannot be asked", file)
		}
	}
	return caddycmd.DetermineAdminAPIAddress(address, config, file, adapter)
}

// ask does a request to the API. body and answer are JSON; a body of nil is
// none.
func (c *console) ask(method, path string, body, answer any) error {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding the request: %w", err)
		}
		reader = bytes.NewReader(text)
	}
	// Each request has a connection of its own, as a reload closes them.
	header := http.Header{"Connection": {"close"}}
	resp, err := caddycmd.AdminAPIRequest(c.admin, method, admin.Prefix+path, header, reader)
	if err != nil {
		return c.explain(err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
		return fmt.Errorf("reading what %s answers: %w", c.admin, err)
	}
	return nil
}

// explain makes a message for operators of an error of AdminAPIRequest, which
// is text only.
func (c *console) explain(err error) error {
	text, answered := strings.CutPrefix(err.Error(), "caddy responded with error: HTTP ")
	if !answered {
		return fmt.Errorf("asking %s: %s: %w", c.admin,
			printable.Text(requestOf.ReplaceAllString(err.Error(), "")), errUnreachable)
	}
	status, body, _ := strings.Cut(text, ": ")
	var answer struct {
		Error string `json:"error"`
	}
	switch {
	case json.Unmarshal([]byte(body), &answer) == nil && answer.Error != "":
		return &answerError{status, answer.Error}
	case status == "404":
		return fmt.Errorf("the Caddy at %s does not have the module websocket_proxy", c.admin)
	}
	return errors.New(printable.Text(err.Error()))
}

// upstreams asks for all upstreams.
func (c *console) upstreams() ([]admin.Upstream, error) {
	var list admin.UpstreamList
	err := c.ask(http.MethodGet, "upstreams", nil, &list)
	return list.Upstreams, err
}

// upstreamsThroughReload is upstreams while the configuration may be reloaded.
func (c *console) upstreamsThroughReload() ([]admin.Upstream, error) {
	for deadline := time.Now().Add(reloadTime); ; time.Sleep(countInterval) {
		list, err := c.upstreams()
		if err == nil || time.Now().After(deadline) {
			return list, err
		}
	}
}

// eachTunnel asks for the tunnels that match, page by page.
func (c *console) eachTunnel(filter url.Values, do func(json.RawMessage) error) error {
	const page = "5000"
	filter.Set("limit", page)
	for {
		var list struct {
			Next    string            `json:"next"`
			Tunnels []json.RawMessage `json:"tunnels"`
		}
		if err := c.ask(http.MethodGet, "tunnels?"+filter.Encode(), nil, &list); err != nil {
			return err
		}
		for _, t := range list.Tunnels {
			if err := do(t); err != nil {
				return err
			}
		}
		if list.Next == "" {
			return nil
		}
		filter.Set("after", list.Next)
	}
}
