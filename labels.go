package websocketproxy

import (
	"fmt"
	"iter"
	"net/http"
	"regexp"

	"github.com/caddyserver/caddy/v2"
)

// maxLabels bounds how many labels a tunnel has.
const maxLabels = 8

// Label is a name and a value by which operators find tunnels: in the log, in the admin
// API and in the commands.
type Label struct {
	// Name of the label, such as `user`: letters, digits and _, not beginning with a
	// digit, at most 64 bytes. Required.
	Name string `json:"name"`

	// Value, usually a placeholder such as `{http.auth.user.id}`. It is expanded once,
	// when the handshake has been accepted. Controls are escaped, and at most 128 bytes
	// are kept. A tunnel does not have the label if nothing is left. Required.
	Value string `json:"value"`
}

// labelName matches names of labels, which are those of metrics' labels.
var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,63}$`)

func (h *Handler) checkLabels() error {
	if len(h.Labels) > maxLabels {
		return fmt.Errorf("labels[%d]: is one more than the %d that a tunnel may have", maxLabels, maxLabels)
	}
	names := make(map[string]bool)
	for i, l := range h.Labels {
		switch {
		case l == nil:
			return fmt.Errorf("labels[%d]: is null", i)
		case !labelName.MatchString(l.Name):
			return fmt.Errorf("labels[%d]: %q is no name for a label, such as user: letters, digits and _, "+
				"not beginning with a digit, at most 64", i, l.Name)
		case names[l.Name]:
			return fmt.Errorf("labels[%d]: %s is given twice", i, l.Name)
		case l.Value == "":
			return fmt.Errorf("labels[%d]: %s has no value, such as {http.auth.user.id}", i, l.Name)
		}
		names[l.Name] = true
	}
	return nil
}

// expandLabels are the labels of the tunnel that a request becomes.
func (h *Handler) expandLabels(r *http.Request) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		for _, l := range h.Labels {
			if !yield(l.Name, repl.ReplaceAll(l.Value, "")) {
				return
			}
		}
	}
}
