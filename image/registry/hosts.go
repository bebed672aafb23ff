package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxHostsFile bounds a hosts.toml. It is the administrator's own file; the bound is for accidents.
const maxHostsFile = 1 << 20

// host is one place that answers for a registry.
type host struct {
	url          url.URL // scheme, host and the path that stands for /v2
	autoScheme   bool    // nobody said whether http or https: only for loopback
	upstream     bool    // the registry itself, as opposed to a mirror
	pull         bool
	resolve      bool
	header       http.Header
	caFiles      []string
	clientCerts  [][2]string // certificate and key; the key may be in the same file
	skipVerify   bool
	dialTimeout  time.Duration
	configuredBy string // the file, for error messages
}

// hostsFile is hosts.toml, in the format of containerd's certs.d.
type hostsFile struct {
	Server string `toml:"server"`
	hostSection
	Hosts map[string]hostSection `toml:"host"`
}

type hostSection struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// hostsFor reads which hosts answer for a registry, in the order in which to try them; the registry itself is last. It is read at each pull, so that a change
// needs no restart.
func hostsFor(certsDir, registry string) ([]host, error) {
	if certsDir != "" {
		for _, dir := range hostDirectories(certsDir, registry) {
			info, err := os.Stat(dir)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("reading the configuration of registry %s: %w", registry, err)
			}
			if info.IsDir() {
				return readHostsDir(dir, registry)
			}
		}
	}
	return []host{defaultHost(registry)}, nil
}

// hostDirectories are the names that containerd looks for: host_port_, because not everything takes colons, then host:port, then _default.
func hostDirectories(certsDir, registry string) []string {
	var dirs []string
	if i := strings.LastIndexByte(registry, ':'); i > 0 {
		dirs = append(dirs, filepath.Join(certsDir, registry[:i]+"_"+registry[i+1:]+"_"))
	}
	return append(dirs, filepath.Join(certsDir, registry), filepath.Join(certsDir, "_default"))
}

func readHostsDir(dir, registry string) ([]host, error) {
	file := filepath.Join(dir, "hosts.toml")
	info, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		h, err := dockerCerts(dir, defaultHost(registry))
		return []host{h}, err
	}
	if err == nil && info.Size() > maxHostsFile {
		err = fmt.Errorf("%d bytes are too many for a hosts.toml: %w", info.Size(), errdefs.ErrInvalidArgument)
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of registry %s: %w", registry, err)
	}
	hosts, err := parseHosts(content, dir, registry)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	for i := range hosts {
		hosts[i].configuredBy = file
	}
	return hosts, nil
}

// dockerCerts takes the certificates of a directory without hosts.toml the way Docker lays them out: *.crt are authorities, *.cert with *.key is the client's.
func dockerCerts(dir string, h host) (host, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return host{}, fmt.Errorf("reading the certificates of registry %s: %w", h.url.Host, err)
	}
	for _, entry := range entries {
		file := filepath.Join(dir, entry.Name())
		switch filepath.Ext(file) {
		case ".crt":
			h.caFiles = append(h.caFiles, file)
		case ".cert":
			h.clientCerts = append(h.clientCerts, [2]string{file, strings.TrimSuffix(file, ".cert") + ".key"})
		}
	}
	h.autoScheme = h.autoScheme && len(h.caFiles)+len(h.clientCerts) == 0
	return h, nil
}

// defaultHost is the registry itself when nothing else is configured.
func defaultHost(registry string) host {
	name := registry
	if name == "docker.io" {
		name = "registry-1.docker.io"
	}
	return host{
		url:        url.URL{Scheme: "https", Host: name, Path: "/v2"},
		autoScheme: isLoopback(name),
		upstream:   true, pull: true, resolve: true,
	}
}

// isLoopback says whether a host, with or without port, is this machine for certain. Names other than localhost may resolve to anything.
func isLoopback(hostPort string) bool {
	name := hostPort
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

// parseHosts is pure, except that relative names of certificates are taken from dir.
func parseHosts(content []byte, dir, registry string) ([]host, error) {
	var file hostsFile
	if err := toml.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	var hosts []host
	for _, name := range hostOrder(content, file.Hosts) {
		section := file.Hosts[name]
		h, err := section.host(name, dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		hosts = append(hosts, h)
	}
	server := file.Server
	if server == "" {
		fallback := defaultHost(registry)
		server = "https://" + fallback.url.Host
		if fallback.autoScheme {
			server = fallback.url.Host
		}
	}
	last, err := file.host(server, dir)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", server, err)
	}
	last.upstream = true
	return append(hosts, last), nil
}

// hostOrder lists the host tables in the order of the file, which is the order of preference. The decoder's map has lost it.
func hostOrder(content []byte, hosts map[string]hostSection) []string {
	var order []string
	var p unstable.Parser
	p.Reset(content)
	for p.NextExpression() {
		expr := p.Expression()
		if expr.Kind != unstable.Table {
			continue
		}
		var keys []string
		for it := expr.Key(); it.Next(); {
			keys = append(keys, string(it.Node().Data))
		}
		if len(keys) >= 2 && keys[0] == "host" && !slices.Contains(order, keys[1]) {
			order = append(order, keys[1])
		}
	}
	var rest []string // written as inline tables
	for name := range hosts {
		if !slices.Contains(order, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(order, rest...)
}

func (s *hostSection) host(address, dir string) (host, error) {
	h := host{skipVerify: s.SkipVerify}
	if err := h.setAddress(address, s.OverridePath); err != nil {
		return host{}, err
	}
	if err := h.setCapabilities(s.Capabilities); err != nil {
		return host{}, err
	}
	var err error
	if h.caFiles, err = fileList("ca", s.CA, dir); err != nil {
		return host{}, err
	}
	if h.clientCerts, err = certPairs(s.Client, dir); err != nil {
		return host{}, err
	}
	if h.header, err = headers(s.Header); err != nil {
		return host{}, err
	}
	if s.DialTimeout != "" {
		if h.dialTimeout, err = time.ParseDuration(s.DialTimeout); err != nil || h.dialTimeout < 0 {
			return host{}, fmt.Errorf("dial_timeout %q is not a duration like \"10s\": %w", s.DialTimeout, errdefs.ErrInvalidArgument)
		}
	}
	h.autoScheme = h.autoScheme && len(h.caFiles)+len(h.clientCerts) == 0 && !h.skipVerify
	return h, nil
}

func (h *host) setAddress(address string, overridePath bool) error {
	if !strings.Contains(address, "://") {
		address = "https://" + address
		h.autoScheme = true
	}
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("scheme %q is neither http nor https: %w", u.Scheme, errdefs.ErrInvalidArgument)
	}
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("it has to be a URL of scheme, host and path: %w", errdefs.ErrInvalidArgument)
	}
	h.autoScheme = h.autoScheme && isLoopback(u.Host)
	p := strings.TrimRight(u.Path, "/")
	if !overridePath && !strings.HasSuffix(p, "/v2") {
		p = path.Join("/", p, "v2")
	}
	h.url = url.URL{Scheme: u.Scheme, Host: u.Host, Path: p}
	return nil
}

func (h *host) setCapabilities(names []string) error {
	if len(names) == 0 {
		h.pull, h.resolve = true, true
		return nil
	}
	for _, name := range names {
		switch strings.ToLower(name) {
		case "pull":
			h.pull = true
		case "resolve":
			h.resolve = true
		case "push", "referrers": // not what a node does
		default:
			return fmt.Errorf("capability %q is none of pull, resolve, push: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func absolute(file, dir string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// fileList takes a string or a list of strings.
func fileList(field string, value any, dir string) ([]string, error) {
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{absolute(v, dir)}, nil
	case []any:
		var files []string
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("%s has to be a file name or a list of them: %w", field, errdefs.ErrInvalidArgument)
			}
			files = append(files, absolute(s, dir))
		}
		return files, nil
	}
	return nil, fmt.Errorf("%s has to be a file name or a list of them: %w", field, errdefs.ErrInvalidArgument)
}

// certPairs takes a string, a list of strings (certificate and key in one file), or a list of pairs.
func certPairs(value any, dir string) ([][2]string, error) {
	wrong := fmt.Errorf("client has to be a file name, a list of them, or a list of pairs of certificate and key: %w", errdefs.ErrInvalidArgument)
	switch v := value.(type) {
	case nil:
		return nil, nil
	case string:
		return [][2]string{{absolute(v, dir), ""}}, nil
	case []any:
		var pairs [][2]string
		for _, item := range v {
			switch entry := item.(type) {
			case string:
				pairs = append(pairs, [2]string{absolute(entry, dir), ""})
			case []any:
				files, err := fileList("client", entry, dir)
				if err != nil || len(files) == 0 || len(files) > 2 {
					return nil, wrong
				}
				pair := [2]string{files[0], ""}
				if len(files) == 2 && entry[1] != "" {
					pair[1] = files[1]
				}
				pairs = append(pairs, pair)
			default:
				return nil, wrong
			}
		}
		return pairs, nil
	}
	return nil, wrong
}

func headers(values map[string]any) (http.Header, error) {
	header := http.Header{}
	for name, value := range values {
		switch v := value.(type) {
		case string:
			header.Add(name, v)
		case []any:
			for _, item := range v {
				s, ok := item.(string)
				if !ok {
					return nil, fmt.Errorf("header %q has to be a string or a list of strings: %w", name, errdefs.ErrInvalidArgument)
				}
				header.Add(name, s)
			}
		default:
			return nil, fmt.Errorf("header %q has to be a string or a list of strings: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return header, nil
}
