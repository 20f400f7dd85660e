package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

// addNodeFlags adds the flags that say which Caddys are asked.
func addNodeFlags(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.StringSlice("address", nil, "The address to use to reach the admin API endpoint, if not the default; "+
		"several, separated by commas or each with a flag of its own, are asked all at once")
	flags.StringArrayP("config", "c", nil,
		"Configuration file to use to parse the admin address, if --address is not used; may be given several times")
	flags.StringP("adapter", "a", "", "Name of config adapter to apply (when --config is used)")
	flags.String("cert", "", "File with the client certificate for addresses with https://, as PEM")
	flags.String("key", "", "File with the key of --cert, as PEM")
	flags.String("cacert", "", "File with the authorities that sign for addresses with https://, as PEM, "+
		"if not those of the system")
}

// findNodes finds out whom to ask.
func findNodes(flags caddycmd.Flags) ([]*node, error) {
	addresses, err := adminAddresses(flags)
	if err != nil {
		return nil, err
	}
	secured, err := tlsConfig(flags, addresses)
	if err != nil {
		return nil, err
	}
	nodes := make([]*node, len(addresses))
	named := make(map[string]bool)
	for i, address := range addresses {
		if nodes[i], err = newNode(address, secured); err != nil {
			return nil, err
		}
		if named[address] {
			return nil, fmt.Errorf("%s is to be asked twice, and would be counted twice", nodes[i].name)
		}
		named[address] = true
	}
	return nodes, nil
}

// adminAddresses finds out where the admin endpoints are, as Caddy's own commands
// do.
func adminAddresses(flags caddycmd.Flags) ([]string, error) {
	addresses, err := flags.GetStringSlice("address")
	if err != nil {
		return nil, err
	}
	if len(addresses) > 0 {
		for i, address := range addresses {
			if addresses[i] = strings.TrimSpace(address); addresses[i] == "" {
				return nil, errors.New("--address: one of the addresses is empty")
			}
		}
		return addresses, nil
	}
	files, err := flags.GetStringArray("config")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		files = []string{""}
	}
	for _, file := range files {
		address, err := addressIn(file, flags.String("adapter"))
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

// addressIn returns the address of the admin endpoint of a configuration, or the default
// without one.
func addressIn(file, adapter string) (string, error) {
	var config []byte
	if file != "" {
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
	return caddycmd.DetermineAdminAPIAddress("", config, file, adapter)
}

// tlsConfig reads what addresses with https:// are asked with.
func tlsConfig(flags caddycmd.Flags, addresses []string) (*tls.Config, error) {
	secured := false
	for _, address := range addresses {
		secured = secured || strings.HasPrefix(address, httpsScheme)
	}
	cert, key, authorities := flags.String("cert"), flags.String("key"), flags.String("cacert")
	switch {
	case !secured && (cert != "" || key != "" || authorities != ""):
		return nil, errors.New("--cert, --key and --cacert are for an --address with https://")
	case (cert == "") != (key == ""):
		return nil, errors.New("--cert and --key belong together")
	}
	config := new(tls.Config)
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		// Whatever authorities the server names: Caddy's remote admin endpoint names the
		// certificates themselves that it knows.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	if authorities != "" {
		text, err := os.ReadFile(authorities) //nolint:gosec // whoever runs the command says which
		if err != nil {
			return nil, fmt.Errorf("--cacert: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("--cacert: %s has no certificate", printable.Text(authorities))
		}
	}
	return config, nil
}
