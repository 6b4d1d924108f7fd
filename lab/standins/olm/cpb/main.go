// cpb copies a bundle out of the image it is started in: its manifests and metadata directories into the
// directory given. Bundle images are built from scratch, hence a static program. Where the directories are, the
// image's metadata/annotations.yaml says.
package main

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const annotation = "operators.operatorframework.io.bundle.manifests.v1:"

// findMetadata returns the directory of the annotations file that names the manifests directory, and that name.
func findMetadata(root string) (metadata, manifests string, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, walkErr error) error {
		if walkErr != nil {
			return fs.SkipDir
		}
		switch path {
		case "/proc", "/sys", "/dev", "/util", "/bundle":
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return nil
		}
		file, openErr := os.Open(path)
		if openErr != nil {
			return nil
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if value, found := strings.CutPrefix(strings.TrimSpace(lines.Text()), annotation); found {
				metadata, manifests = filepath.Dir(path), strings.Trim(strings.TrimSpace(value), `"'`)
				return fs.SkipAll
			}
		}
		return nil
	})
	if err == nil && metadata == "" {
		err = fmt.Errorf("no annotations file with %s found", strings.TrimSuffix(annotation, ":"))
	}
	return metadata, manifests, err
}

// copyTree copies the regular files below src to dst.
func copyTree(src, dst string) error {
	return filepath.WalkDir(src, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		target := filepath.Join(dst, relative)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o777)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o666)
	})
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: cpb DESTINATION")
	}
	metadata, manifests, err := findMetadata("/")
	if err != nil {
		return err
	}
	if err := copyTree(filepath.Join("/", manifests), filepath.Join(os.Args[1], manifests)); err != nil {
		return err
	}
	return copyTree(metadata, filepath.Join(os.Args[1], "metadata"))
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
