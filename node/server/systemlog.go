package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// systemLogs serves a directory of logs. Links in it are followed as long as they stay inside: the kubelet follows all of them, so whoever may write to
// /var/log (a pod that mounts it) and read /logs/ reads every file of the node.
type systemLogs string

// Open opens a file for http.FileServer.
func (s systemLogs) Open(name string) (http.File, error) {
	root, err := filepath.EvalSymlinks(string(s))
	if err != nil {
		return nil, err
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(root, filepath.FromSlash(path.Clean("/"+name))))
	if err != nil {
		return nil, err
	}
	inside, err := filepath.Rel(root, resolved)
	if err != nil || inside == ".." || strings.HasPrefix(inside, "../") {
		return nil, fmt.Errorf("%s leads out of the directory of logs: %w", name, fs.ErrPermission)
	}
	directory, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer directory.Close()
	file, err := directory.Open(inside) // a link that was put there meanwhile leads nowhere
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		err = fs.ErrPermission // a FIFO would hold the request
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
