// Package label is what a configuration says about whose a tunnel is. It knows names and
// values as they are written, and nothing of tunnels. It has no lock.
package label

import (
	"fmt"
	"iter"
	"regexp"
)

// Most is how many labels a tunnel may have.
const Most = 8

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

// isName matches names of labels, which are those of metrics' labels.
var isName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,63}$`).MatchString

// Check reports what is wrong with labels. The text begins with the path in JSON.
func Check(all []*Label) error {
	if len(all) > Most {
		return fmt.Errorf("labels[%d]: is one more than the %d that there may be", Most, Most)
	}
	names := make(map[string]bool)
	for i, l := range all {
		switch {
		case l == nil:
			return fmt.Errorf("labels[%d]: is null", i)
		case !isName(l.Name):
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

// Expanded are the names with what expand makes of the values.
func Expanded(all []*Label, expand func(value string) string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for _, l := range all {
			if !yield(l.Name, expand(l.Value)) {
				return
			}
		}
	}
}
